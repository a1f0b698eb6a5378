import {
  type ClientUnit,
  type Conversation,
  type Protocol,
  type Request,
  type ServerUnit,
  Splitter,
} from './protocol.ts'

/**
 * etcd, which is gRPC over HTTP/2 without encryption: a request is a unary call, which ends with the frame that closes the
 * client's side together with its message; its reply ends with the frame that closes the server's side. Watches and
 * keep-alives, whose client sends a message and keeps its side open, are no requests. Other HTTP is passed on unread.
 *
 * Source: RFC 9113, sections 4 and 6; gRPC's "PROTOCOL-HTTP2.md".
 */
export const etcdProtocol: Protocol = () => new EtcdConversation()

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
const headerLength = 9
const frame = { data: 0, headers: 1, resetStream: 3, continuation: 9 }
const flag = { endStream: 1, endHeaders: 4, padded: 8 }

interface Stream {
  /** What the client has sent, as long as it may become a request; undefined once it is none. */
  parts: Buffer[] | undefined
  request: Request | undefined
  /** The server has begun to close its side. */
  closing: boolean
}

class EtcdConversation implements Conversation {
  readonly #streams = new Map<number, Stream>()
  readonly #client = new Splitter((bytes) => (this.#state === 'new' ? preface.length : this.#lengthOf(bytes)))
  readonly #server = new Splitter((bytes) => this.#lengthOf(bytes))
  #state: 'new' | 'framed' | 'other' = 'new'

  fromClient(bytes: Buffer): readonly ClientUnit[] {
    return Array.from(this.#client.split(bytes), (unit) => this.#fromClient(unit))
  }

  fromServer(bytes: Buffer): readonly ServerUnit[] {
    return Array.from(this.#server.split(bytes), (unit) => this.#fromServer(unit))
  }

  #lengthOf(bytes: Buffer): number | undefined {
    if (this.#state === 'other') return bytes.length
    return bytes.length < headerLength ? undefined : headerLength + bytes.readUIntBE(0, 3)
  }

  #fromClient(bytes: Buffer): ClientUnit {
    if (this.#state === 'new') {
      this.#state = bytes.equals(preface) ? 'framed' : 'other'
      return { bytes }
    }
    if (this.#state === 'other') return { bytes }
    const { type, flags, id } = read(bytes)
    if (type === frame.headers) this.#streams.set(id, { parts: [], request: undefined, closing: false })
    const stream = this.#streams.get(id)
    if (type === frame.resetStream) this.#streams.delete(id)
    if (type !== frame.data || stream?.parts === undefined) return { bytes }
    const ends = (flags & flag.endStream) !== 0
    stream.parts.push(contentOf(bytes, flags))
    const payload = Buffer.concat(stream.parts)
    const whole = payload.length >= 5 && payload.length >= 5 + payload.readUInt32BE(1)
    if (ends || whole) stream.parts = undefined
    if (!ends) return { bytes }
    stream.request = { payload }
    return { bytes, request: stream.request }
  }

  #fromServer(bytes: Buffer): ServerUnit {
    if (this.#state === 'other') return { bytes }
    const { type, flags, id } = read(bytes)
    const stream = this.#streams.get(id)
    if (stream === undefined) return { bytes }
    if (type === frame.headers || type === frame.data) stream.closing ||= (flags & flag.endStream) !== 0
    const open = (type === frame.headers || type === frame.continuation) && (flags & flag.endHeaders) === 0
    if (type !== frame.resetStream && (!stream.closing || open)) return { bytes }
    this.#streams.delete(id)
    // Frames before the last go on: they bear on other streams (compressed headers) and on how much may be sent.
    return stream.request ? { bytes, answers: stream.request, ends: true } : { bytes }
  }
}

function read(bytes: Buffer): { type: number; flags: number; id: number } {
  return { type: bytes.readUInt8(3), flags: bytes.readUInt8(4), id: bytes.readUInt32BE(5) & 0x7f_ff_ff_ff }
}

function contentOf(bytes: Buffer, flags: number): Buffer {
  if ((flags & flag.padded) === 0) return bytes.subarray(headerLength)
  return bytes.subarray(headerLength + 1, bytes.length - bytes.readUInt8(headerLength))
}
