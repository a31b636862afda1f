/** How libp2p's multiplexer is changed from outside: each one that is made, and each stream that it opens. */
import type { Stream, StreamMuxer, StreamMuxerFactory } from '@libp2p/interface'

type Factory<C> = (components: C) => StreamMuxerFactory

/** A multiplexer that `change` has looked after as soon as it was made for a connection. */
export function changedMuxer<C> (muxer: Factory<C>, change: (made: StreamMuxer) => void): Factory<C> {
  return components => {
    const factory = muxer(components)
    const create = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = connection => {
      const made: StreamMuxer = create(connection)
      change(made)
      return made
    }
    return factory
  }
}

/** Hands each stream that is opened from here to `change`, before anybody else has it. */
export function onOpened (made: StreamMuxer, change: (stream: Stream, protocol: string | undefined) => void): void {
  const open = made.createStream.bind(made)
  made.createStream = async (options): Promise<Stream> => {
    const stream = await open(options)
    change(stream, options?.protocol)
    return stream
  }
}
