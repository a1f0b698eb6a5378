import {
  type ClientUnit,
  type Conversation,
  type Protocol,
  type Request,
  type ServerUnit,
  Splitter,
} from './protocol.ts'

/**
 * PostgreSQL: a request ends with Query, Sync or FunctionCall, and holds what came since the one before;
 * a reply ends with ReadyForQuery. The start-up, passwords and the farewell are no requests. An encrypted connection is
 * passed on unread.
 *
 * Source: PostgreSQL's manual, "Frontend/Backend Protocol".
 */
export const postgresProtocol: Protocol = () => new PostgresConversation()

const encryptionRequests = new Set([80_877_103, 80_877_104])
const listenStatement = /(^|\0|;)\s*LISTEN\s/i
const requestEnds = new Set(['Q', 'S', 'F'])

class PostgresConversation implements Conversation {
  /** What will be answered, in order; the start-up is undefined. */
  readonly #awaited: (Request | undefined)[] = []
  readonly #client = new Splitter((bytes) => this.#lengthOf(bytes, this.#started ? 1 : 0))
  readonly #server = new Splitter((bytes) => (this.#asksToEncrypt ? 1 : this.#lengthOf(bytes, 1)))
  #payload: Buffer[] = []
  listens = false
  #started = false
  #asksToEncrypt = false
  #encrypted = false

  fromClient(bytes: Buffer): readonly ClientUnit[] {
    return Array.from(this.#client.split(bytes), (unit) => this.#fromClient(unit))
  }

  fromServer(bytes: Buffer): readonly ServerUnit[] {
    return Array.from(this.#server.split(bytes), (unit) => this.#fromServer(unit))
  }

  /** A message's length counts itself but not the type before it. */
  #lengthOf(bytes: Buffer, at: number): number | undefined {
    if (this.#encrypted) return bytes.length
    return bytes.length < at + 4 ? undefined : at + bytes.readInt32BE(at)
  }

  #fromClient(bytes: Buffer): ClientUnit {
    if (this.#encrypted) return { bytes }
    if (!this.#started) {
      this.#asksToEncrypt = encryptionRequests.has(bytes.length === 8 ? bytes.readInt32BE(4) : 0)
      if (this.#asksToEncrypt) return { bytes }
      this.#started = true
      this.#awaited.push(undefined)
      return { bytes }
    }
    const type = typeOf(bytes)
    if (type === 'p' || type === 'X') return { bytes }
    // A statement is in clear, in Query as well as in Parse, after a name that ends with a zero.
    this.listens ||= (type === 'Q' || type === 'P') && listenStatement.test(bytes.toString('latin1', 5))
    this.#payload.push(bytes)
    if (!requestEnds.has(type)) return { bytes }
    const request: Request = { payload: Buffer.concat(this.#payload) }
    this.#payload = []
    this.#awaited.push(request)
    return { bytes, request }
  }

  #fromServer(bytes: Buffer): ServerUnit {
    if (this.#asksToEncrypt) {
      this.#asksToEncrypt = false
      this.#encrypted = typeOf(bytes) !== 'N'
      return { bytes }
    }
    if (this.#encrypted) return { bytes }
    const [answers] = this.#awaited
    const ends = typeOf(bytes) === 'Z'
    if (ends) this.#awaited.shift()
    return answers ? { bytes, answers, ends } : { bytes }
  }
}

function typeOf(bytes: Buffer): string {
  return String.fromCharCode(bytes[0] ?? 0)
}
