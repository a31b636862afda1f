/**
 * Must be imported before the generated codecs: they look at `util.Long` while they load. Without
 * it a uint64 decodes to a plain number, and codec.ts refuses those that a number cannot hold.
 */
import protobuf from 'protobufjs/minimal.js'

/** Nesting that decoders follow; the contract needs 5. Bounds the stack, not only the bytes. */
const MAX_DEPTH = 12

protobuf.util.Long = undefined as never
protobuf.util.recursionLimit = MAX_DEPTH
protobuf.Reader.recursionLimit = MAX_DEPTH
protobuf.configure()
