/**
 * Breaks the way between the SDK and the server, below the SDK's own retries: by the handler of its HTTP requests. So what is tested is what
 * the SDK really sends again, and what it makes of the answers.
 */
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb'

type Handle = DynamoDBClient['config']['requestHandler']['handle']
type Answer = Awaited<ReturnType<Handle>>

/** What befalls one request: it is sent or not, its answer is lost or not, or it is answered by something else. */
export type Accident = (send: () => Promise<Answer>) => Promise<Answer>

/** The way of one client. */
export class Wire {
  /** The names of the operations that the SDK has sent, each copy by itself. */
  readonly sent: string[] = []
  readonly #accidents: { readonly operation: RegExp; readonly accident: Accident }[] = []

  constructor(client: DynamoDBClient) {
    const { requestHandler } = client.config
    const handle = requestHandler.handle.bind(requestHandler)
    requestHandler.handle = async (request, options) => {
      const { headers } = request as { readonly headers: Readonly<Record<string, string>> }
      const operation = headers['x-amz-target']?.split('.')[1] ?? ''
      this.sent.push(operation)
      const index = this.#accidents.findIndex((one) => one.operation.test(operation))
      const [planned] = index === -1 ? [] : this.#accidents.splice(index, 1)
      const send = (): Promise<Answer> => handle(request, options)
      return planned === undefined ? send() : planned.accident(send)
    }
  }

  /** These befall the next requests of this operation, one each. */
  plan(operation: RegExp, ...accidents: readonly Accident[]): void {
    this.#accidents.push(...accidents.map((accident) => ({ operation, accident })))
  }

  /** Whether all that was planned has happened. */
  get isThrough(): boolean {
    return this.#accidents.length === 0
  }
}

/** The store does it, and the connection breaks: the SDK sends it again. */
export const loseReply: Accident = async (send) => {
  await send()
  throw brokenConnection()
}

/** It never arrives. */
export const loseRequest: Accident = async () => {
  throw brokenConnection()
}

/** The SDK gives the first copy up and sends another; the first one arrives when it is let go. */
export function holdBack(): { readonly accident: Accident; arrive(): Promise<unknown> } {
  let arrive: () => Promise<unknown> = async () => {}
  return {
    accident: async (send) => {
      arrive = send
      throw Object.assign(new Error('no answer in time'), { name: 'TimeoutError' })
    },
    arrive: () => arrive(),
  }
}

function brokenConnection(): Error {
  return Object.assign(new Error('socket hang up'), { name: 'TimeoutError', code: 'ECONNRESET' })
}
