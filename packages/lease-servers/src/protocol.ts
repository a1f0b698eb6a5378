/**
 * How a proxy reads a conversation between a client and a server: where each request ends, and where the reply to it.
 */

/** Starts to read a connection. */
export type Protocol = () => Conversation

/** What has been read of one connection; each side's bytes come in order, in chunks that mean nothing. */
export interface Conversation {
  /** The client has asked for notifications on this connection. */
  readonly listens?: boolean
  /** The complete units that these bytes of the client end, in order. */
  fromClient(bytes: Buffer): readonly ClientUnit[]
  /** The complete units that these bytes of the server end, in order. */
  fromServer(bytes: Buffer): readonly ServerUnit[]
}

/** Bytes that go on together. Without these, the server does not carry out the request that they end. */
export interface ClientUnit {
  readonly bytes: Buffer
  readonly request?: Request
}

/** A request worth counting; the same object stands for it in the reply. */
export interface Request {
  /** All its bytes; keys are in clear. */
  readonly payload: Buffer
  /**
   * What is asked, without what every copy of a request has of its own. Only of protocols whose clients wait for each reply before they send
   * the next request of a connection: a proxy can answer these itself.
   */
  readonly question?: string
}

/** Bytes that go on together. Without those that `answer` a request, the client has no complete reply to it. */
export interface ServerUnit {
  readonly bytes: Buffer
  readonly answers?: Request
  /** The reply is complete, so the server has done what was asked. */
  readonly ends?: boolean
}

/** Bytes that nobody looks into: no request is ever counted. */
export const opaqueProtocol: Protocol = () => ({
  fromClient: (bytes) => [{ bytes }],
  fromServer: (bytes) => [{ bytes }],
})

/** Cuts a stream of bytes into units. */
export class Splitter {
  readonly #lengthOf: (bytes: Buffer) => number | undefined
  #rest: Buffer = Buffer.alloc(0)

  /** `lengthOf` tells the length of the unit with which these bytes begin, or undefined when they are too few to tell. */
  constructor(lengthOf: (bytes: Buffer) => number | undefined) {
    this.#lengthOf = lengthOf
  }

  /** The units that are complete now. The length of each is asked for after the one before has been handled. */
  *split(bytes: Buffer): Generator<Buffer> {
    this.#rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
    while (this.#rest.length > 0) {
      const length = this.#lengthOf(this.#rest)
      if (length === undefined || length > this.#rest.length) return
      const unit = this.#rest.subarray(0, length)
      this.#rest = this.#rest.subarray(length)
      yield unit
    }
  }
}
