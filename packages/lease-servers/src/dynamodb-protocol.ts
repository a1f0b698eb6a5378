import {
  type ClientUnit,
  type Conversation,
  type Protocol,
  type Request,
  type ServerUnit,
  Splitter,
} from './protocol.ts'

/**
 * DynamoDB, which is JSON over HTTP/1.1 without encryption: every request is a POST whose length is given, and has one reply. The SDK sends
 * the next request of a connection when it has the reply to the one before. Replies without a length are passed on unread, and answer nothing.
 *
 * Source: RFC 9112; "DynamoDB low-level API".
 */
export const dynamodbProtocol: Protocol = () => new DynamodbConversation()

const HEADERS_END = '\r\n\r\n'

class DynamodbConversation implements Conversation {
  readonly #client = new Splitter(lengthOf)
  readonly #server = new Splitter(lengthOf)
  #asked: Request | undefined

  fromClient(bytes: Buffer): readonly ClientUnit[] {
    return Array.from(this.#client.split(bytes), (unit) => {
      this.#asked = { payload: unit, question: questionOf(unit) }
      return { bytes: unit, request: this.#asked }
    })
  }

  fromServer(bytes: Buffer): readonly ServerUnit[] {
    return Array.from(this.#server.split(bytes), (unit) => {
      const answers = this.#asked
      this.#asked = undefined
      return answers ? { bytes: unit, answers, ends: true } : { bytes: unit }
    })
  }
}

/** Of a message, from its first line to the end of its body. */
function lengthOf(bytes: Buffer): number | undefined {
  const end = bytes.indexOf(HEADERS_END)
  if (end === -1) return undefined
  const headers = bytes.toString('latin1', 0, end)
  const length = Number(/\r\ncontent-length: *(\d+)/i.exec(headers)?.[1] ?? bytes.length - end - HEADERS_END.length)
  return end + HEADERS_END.length + length
}

/** The operation and its parameters, without what every copy of a request has of its own. */
function questionOf(unit: Buffer): string {
  const end = unit.indexOf(HEADERS_END)
  const target = /\r\nx-amz-target: *(\S+)/i.exec(unit.toString('latin1', 0, end))?.[1] ?? ''
  return `${target} ${unit.toString('utf8', end + HEADERS_END.length)}`
}
