import { EventEmitter } from 'node:events'
import type { RedisScripting } from './driver.ts'

/** A connection over a client that was made for us alone: it opens by itself, and its end is final. `error` comes before `end`. */
export abstract class OwnConnection<Client> extends EventEmitter implements RedisScripting {
  /** Once it is open. */
  protected readonly client: Promise<Client>
  readonly #scripting: Promise<RedisScripting>
  #isOver = false

  constructor(made: Client | Promise<Client>) {
    super()
    this.on('error', () => {}) // `end` follows, and what was asked rejects
    this.client = this.#opened(made)
    this.client.catch((error: unknown) => this.fail(error))
    this.#scripting = this.client.then((client) => this.scripting(client))
    this.#scripting.catch(() => {})
  }

  /** Makes the client ready for use. It may be over by then. */
  protected abstract open(client: Client): void | Promise<void>
  protected abstract scripting(client: Client): RedisScripting
  protected abstract close(client: Client): void

  protected get isOver(): boolean {
    return this.#isOver
  }

  async eval(...args: Parameters<RedisScripting['eval']>): Promise<unknown> {
    return (await this.#scripting).eval(...args)
  }

  async evalsha(...args: Parameters<RedisScripting['evalsha']>): Promise<unknown> {
    return (await this.#scripting).evalsha(...args)
  }

  disconnect(): void {
    this.end()
  }

  protected fail(error: unknown): void {
    if (this.#isOver) return
    this.emit('error', error)
    this.end()
  }

  protected end(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.client.then(
      (client) => this.close(client),
      () => {},
    )
    this.emit('end')
  }

  /** `open` comes after the constructors of all classes. */
  async #opened(made: Client | Promise<Client>): Promise<Client> {
    const client = await made
    await this.open(client)
    return client
  }
}
