import {
  type ClientUnit,
  type Conversation,
  type Protocol,
  type Request,
  type ServerUnit,
  Splitter,
} from './protocol.ts'
import { parseResp, type RespValue } from './resp.ts'

/**
 * Redis, RESP2 and RESP3: each command is a request and each value that answers it a reply, except for what a driver sends
 * to set up a connection. Subscriptions and what is published are no replies.
 *
 * Source: "Redis serialization protocol specification".
 */
export const redisProtocol: Protocol = () => new RedisConversation()

const setUp = new Set([
  'HELLO',
  'AUTH',
  'CLIENT',
  'SELECT',
  'INFO',
  'COMMAND',
  'CLUSTER',
  'READONLY',
  'SENTINEL',
  'QUIT',
])
const subscriptions = /^[PS]?(UN)?SUBSCRIBE$/
const published = /^[ps]?(message|(un)?subscribe)$/

class RedisConversation implements Conversation {
  /** What will be answered, in order; what sets up the connection is undefined. */
  readonly #awaited: (Request | undefined)[] = []
  readonly #client = new Splitter((bytes) => parseResp(bytes)?.end)
  readonly #server = new Splitter((bytes) => parseResp(bytes)?.end)
  listens = false

  fromClient(bytes: Buffer): readonly ClientUnit[] {
    return Array.from(this.#client.split(bytes), (unit) => this.#fromClient(unit))
  }

  fromServer(bytes: Buffer): readonly ServerUnit[] {
    return Array.from(this.#server.split(bytes), (unit) => this.#fromServer(unit))
  }

  #fromClient(bytes: Buffer): ClientUnit {
    const value = parseResp(bytes)?.value
    const name = (
      Array.isArray(value) ? textAt(value, 0) : (bytes.toString('latin1').split(/\s/)[0] ?? '')
    ).toUpperCase()
    if (subscriptions.test(name)) {
      this.listens = true
      return { bytes }
    }
    const request: Request | undefined = setUp.has(name) ? undefined : { payload: bytes }
    this.#awaited.push(request)
    return request ? { bytes, request } : { bytes }
  }

  #fromServer(bytes: Buffer): ServerUnit {
    const parsed = parseResp(bytes)
    // RESP3 marks what nobody asked for; in RESP2 it is an array that begins with one of a few words.
    const unasked =
      parsed?.type === '>' || (this.listens && Array.isArray(parsed?.value) && published.test(textAt(parsed.value, 0)))
    if (unasked) return { bytes }
    const answers = this.#awaited.shift()
    return answers ? { bytes, answers, ends: true } : { bytes }
  }
}

function textAt(values: readonly RespValue[], index: number): string {
  const value = values[index]
  return typeof value === 'string' ? value : ''
}
