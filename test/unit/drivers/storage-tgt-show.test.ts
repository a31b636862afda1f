import t from 'tap'
import fc from 'fast-check'
import { parseAccounts, parsePortals, parseTargets } from '../../../agent/drivers/storage/tgt-show.ts'
import { parseRecord } from '../../../agent/drivers/storage/records.ts'
import { assertVolume } from '../../../agent/drivers/storage/valid.ts'

// two targets as tgt 1.0.85 of Debian 12 prints them, one in use
const listing = `Target 1: iqn.2026-11.org.musubi:c1.data
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 2
            Initiator: iqn.2008-11.org.linux-kvm alias: none
            Connection: 0
                IP Address: 10.77.0.1
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            SCSI SN: beaf10
            Size: 0 MB, Block size: 1
            Online: Yes
            Backing store type: null
            Backing store path: None
            Backing store flags: 
        LUN: 1
            Type: disk
            SCSI ID: abcdef
            Size: 67 MB, Block size: 512
            Online: Yes
            Thin-provisioning: Yes
            Backing store type: rdwr
            Backing store path: /var/lib/musubi/some folder/c1.data.img
            Backing store flags: 
    Account information:
        u1
        u2 (outgoing)
    ACL information:
        10.77.0.2
        10.77.0.1
Target 7: iqn.2026-11.org.musubi:c1.more
    System information:
        Driver: iscsi
        State: suspended
    I_T nexus information:
    LUN information:
    Account information:
    ACL information:
`

t.test('a listing is parsed', t => {
  t.strictSame(parseTargets(listing), [
    {
      tid: 1,
      iqn: 'iqn.2026-11.org.musubi:c1.data',
      ready: true,
      luns: [{ lun: 0, path: null, online: true }, { lun: 1, path: '/var/lib/musubi/some folder/c1.data.img', online: true }],
      sessions: [{ sid: 2, initiator: 'iqn.2008-11.org.linux-kvm', connections: [{ cid: 0, address: '10.77.0.1' }] }],
      users: ['u1'],
      allow: ['10.77.0.2', '10.77.0.1']
    },
    { tid: 7, iqn: 'iqn.2026-11.org.musubi:c1.more', ready: false, luns: [], sessions: [], users: [], allow: [] }
  ])
  t.strictSame(parseTargets(''), [])
  t.strictSame(parsePortals('Portal: [::]:3260,1\nPortal: 10.77.0.1:3260,1\nnonsense\n'), ['[::]:3260', '10.77.0.1:3260'])
  t.strictSame(parseAccounts('Account list:\n    u1\n    u2\n'), ['u1', 'u2'])
  t.strictSame(parseAccounts(''), [])
  t.end()
})

t.test('a name chosen by an initiator cannot take the place of a target or its parts', t => {
  const evil = 'x\nTarget 1: iqn.2026-11.org.musubi:c1.data\n    System information:\n        State: gone\n    ACL information:\n        ALL'
  const [first] = parseTargets(listing.replace('iqn.2008-11.org.linux-kvm', evil))
  t.match(first, { ready: true, allow: [] }, 'the first of a name counts')
  const depth = parseTargets(listing.replace('alias: none', 'alias: LUN: 9 Online: No'))
  t.strictSame(depth, parseTargets(listing))
  t.end()
})

t.test('whatever is printed, nothing is thrown and numbers are numbers', t => {
  const line = fc.oneof(fc.constantFrom(...listing.split('\n')), fc.string({ maxLength: 40 }), fc.constantFrom('Target 99999999999999: x', 'Target -1: y', '        LUN: x', '        I_T nexus: '))
  fc.assert(fc.property(fc.array(line, { maxLength: 60 }), lines => {
    const found = parseTargets(lines.join('\n'))
    parsePortals(lines.join('\n'))
    parseAccounts(lines.join('\n'))
    return found.every(one => Number.isSafeInteger(one.tid) && one.luns.every(lun => Number.isSafeInteger(lun.lun)) &&
      new Set(found.map(other => other.iqn)).size === found.length && new Set(found.map(other => other.tid)).size === found.length)
  }))
  t.pass()
  t.end()
})

t.test('a damaged record still tells that the volume is there', t => {
  for (const text of ['', '{', '[]', 'null', '7', '{"fingerprint":5,"allow":"ALL","sizeMiB":"1"}']) {
    t.match(parseRecord(text), { fingerprint: null, iqn: '', sizeMiB: 0, allow: [] }, JSON.stringify(text))
  }
  const whole = { fingerprint: 'f', iqn: 'i', sizeMiB: 1, portalAddress: 'p', user: 'u', allow: ['a'], secretDigest: 's' }
  t.strictSame(parseRecord(JSON.stringify(whole)), whole)
  t.end()
})

t.test('what would reach an argv is checked', t => {
  const good = { sizeMiB: 1, iqn: 'iqn.2026-11.org.musubi:0123456789abcdef.data', portalAddress: '192.0.2.1', chap: { user: 'musubi-01234567.data', secret: '0123456789abcdef' }, allow: ['192.0.2.2'] }
  t.doesNotThrow(() => { assertVolume('v', good) })
  for (const iqn of ['iqn.2026-13.org:x', 'eui.0123456789abcdef', 'iqn.2026-11.org.musubi:', 'iqn.2026-11.org.musubi:a,b', 'iqn.2026-11.org.musubi:a\nb', '--force']) {
    t.throws(() => { assertVolume('v', { ...good, iqn }) }, { code: 'INVALID_INPUT' }, JSON.stringify(iqn))
  }
  t.throws(() => { assertVolume('v', { ...good, chap: { user: 'u', secret: 'with blank in it' } }) }, { code: 'INVALID_INPUT' })
  t.throws(() => { assertVolume('v', { ...good, allow: Array.from({ length: 2000 }, () => '192.0.2.2') }) }, { code: 'INVALID_INPUT' })
  t.end()
})
