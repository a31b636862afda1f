// Generated from musubi.proto by `npm run codegen`. Do not edit.
import type { Reader, Writer } from 'protobufjs/minimal.js'

/** What the static code offers; fields hold default values through their prototype. */
interface StaticCodec {
  encode (message: object, writer?: Writer): Writer
  decode (reader: Reader | Uint8Array, length?: number): object
}

export declare const musubi: {
  v1: {
    Resources: StaticCodec
    HostAd: StaticCodec
    Disk: StaticCodec
    VolumeGroup: StaticCodec
    Nic: StaticCodec
    NumaNode: StaticCodec
    Inventory: StaticCodec
    SiteAd: StaticCodec
    TunnelTrackAd: StaticCodec
    CoordinatorAd: StaticCodec
    PolicyAd: StaticCodec
    Record: StaticCodec
    RecordId: StaticCodec
    SyncRequest: StaticCodec
    SyncReply: StaticCodec
    Suspicion: StaticCodec
    Gossip: StaticCodec
    Envelope: StaticCodec
    IdSlice: StaticCodec
    Certificate: StaticCodec
    Revocation: StaticCodec
    SignedRevocation: StaticCodec
    KnownPeer: StaticCodec
    Hello: StaticCodec
    RevocationsRequest: StaticCodec
    RevocationsReply: StaticCodec
    RenewRequest: StaticCodec
    RenewReply: StaticCodec
    JoinRequest: StaticCodec
    JoinReply: StaticCodec
    Token: StaticCodec
    CordonRequest: StaticCodec
    CordonReply: StaticCodec
    WantedNode: StaticCodec
    WantedVolume: StaticCodec
    Request: StaticCodec
    ExtendRequest: StaticCodec
    ExtendReply: StaticCodec
    KeepAliveRequest: StaticCodec
    KeepAliveReply: StaticCodec
    EpochGrant: StaticCodec
    Grant: StaticCodec
    ClaimRequest: StaticCodec
    ClaimReply: StaticCodec
    CopyRequest: StaticCodec
    CopyReply: StaticCodec
    Held: StaticCodec
    GatewayFacts: StaticCodec
    Offer: StaticCodec
    CommitRequest: StaticCodec
    Receipt: StaticCodec
    CommitReply: StaticCodec
    Secret: StaticCodec
    ActivateRequest: StaticCodec
    ActivateReply: StaticCodec
    ReleaseRequest: StaticCodec
    ReleaseReply: StaticCodec
    StatusRequest: StaticCodec
    ObjectStatus: StaticCodec
    HostStatus: StaticCodec
    StatusReply: StaticCodec
    HoldItem: StaticCodec
    HoldRequest: StaticCodec
    HoldReply: StaticCodec
    HostExtendRequest: StaticCodec
    HostExtendReply: StaticCodec
    HostKeepAliveRequest: StaticCodec
    HostKeepAliveReply: StaticCodec
    HostCurtailRequest: StaticCodec
    HostCurtailReply: StaticCodec
    HostRestoreRequest: StaticCodec
    HostRestoreReply: StaticCodec
    HostCommitRequest: StaticCodec
    HostCommitReply: StaticCodec
    CalendarStep: StaticCodec
    HostCalendarRequest: StaticCodec
    CalendarLease: StaticCodec
    HostCalendarReply: StaticCodec
    CalendarRequest: StaticCodec
    CalendarHost: StaticCodec
    Stretch: StaticCodec
    Lending: StaticCodec
    CalendarReply: StaticCodec
    QuoteRequest: StaticCodec
    QuoteReason: StaticCodec
    QuoteReply: StaticCodec
    MemberHost: StaticCodec
    MemberSite: StaticCodec
    ClusterNode: StaticCodec
    ClusterVolume: StaticCodec
    Frontend: StaticCodec
    ClusterDocument: StaticCodec
    CacheRequest: StaticCodec
    CacheReply: StaticCodec
    SearchRequest: StaticCodec
    SearchReply: StaticCodec
    Failure: StaticCodec
    Call: StaticCodec
    Reply: StaticCodec
    Frame: StaticCodec
  }
}
