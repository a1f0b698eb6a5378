/**
 * The package `@valkey/valkey-glide` (2.3 and later) in the shape of ioredis, as far as it can be: scripts, and a connection that
 * listens.
 *
 * It reconnects by itself, and that cannot be turned off: after a reconnection EXEC would execute what is no longer watched. So
 * nothing is watched over it, and guards run scripts (docs/decisions/0041-valkey-glide-runs-scripts-only.md).
 *
 * Differences that are levelled here: a script is a custom command; answers are read as bytes, for a text that is no UTF-8 would make
 * the driver lose the whole answer; errors of the server get their own words back; subscriptions outlive a reconnection,
 * and what was missed in between is not replayed.
 */
import { hasMethods } from 'lease-core'
import type { RedisListenConnection, RedisScripting, ValkeyGlideClient, ValkeyGlideMessage } from './driver.ts'
import { OwnConnection } from './own-connection.ts'

/** `Decoder.Bytes` of the driver. */
const BYTES = 0

/** So long the driver may take to confirm a subscription; it tries again by itself. */
const SUBSCRIBE_MS = 5_000

/** What a transaction, or a connection as key, is refused with. */
export const NOT_WATCHED =
  'valkey-glide reconnects by itself and would then execute what it no longer watches: use guard.run(), or pass a connection of ioredis, iovalkey or node-redis'

/** Whether it is a client of valkey-glide, for a single server or a Cluster. */
export function isValkeyGlide(given: unknown): given is ValkeyGlideClient {
  return hasMethods(given, 'customCommand', 'invokeScript', 'close')
}

/** What is wrong with this client, as a rule that it does not keep; undefined: nothing. */
export function problemOfValkeyGlide(client: ValkeyGlideClient): string | undefined {
  if (!hasMethods(client, 'subscribe', 'getPubSubMessage')) return 'must be of @valkey/valkey-glide 2.3 or later'
  const { isClosed } = client as { readonly isClosed?: unknown }
  return isClosed === true ? 'must not be closed: create another client of valkey-glide' : undefined
}

/** Runs scripts, each on the primary of its first key. */
export class ValkeyGlideScripting implements RedisScripting {
  /** A Cluster does not tell how many of its nodes have heard a PUBLISH. */
  readonly isCluster: boolean
  readonly #client: ValkeyGlideClient

  constructor(client: ValkeyGlideClient) {
    this.#client = client
    this.isCluster = isClusterClient(client)
  }

  /** The database that a client for a single server was made with. */
  get options(): { readonly db?: number } {
    const { config } = this.#client as { readonly config?: { readonly databaseId?: number } }
    return this.isCluster || config === undefined ? {} : { db: config.databaseId ?? 0 }
  }

  eval(script: string, numberOfKeys: number, ...rest: Argument[]): Promise<unknown> {
    return this.#send('EVAL', script, numberOfKeys, rest)
  }

  evalsha(sha: string, numberOfKeys: number, ...rest: Argument[]): Promise<unknown> {
    return this.#send('EVALSHA', sha, numberOfKeys, rest)
  }

  async #send(command: string, what: string, numberOfKeys: number, rest: readonly Argument[]): Promise<unknown> {
    const texts = [numberOfKeys, ...rest].map((one) => (typeof one === 'number' ? String(one) : one))
    const [, key = ''] = texts
    const route = this.isCluster && numberOfKeys > 0 && { route: { type: 'primarySlotKey', key: String(key) } as const }
    try {
      return asText(await this.#client.customCommand([command, what, ...texts], { decoder: BYTES, ...route }))
    } catch (error) {
      throw asTheServerSaid(error)
    }
  }
}

type Argument = string | Buffer | number

/** Only a Cluster has channels of a slot. */
function isClusterClient(client: ValkeyGlideClient): boolean {
  return hasMethods(client, 'ssubscribe')
}

function asText(answer: unknown): unknown {
  if (Array.isArray(answer)) return answer.map(asText)
  return Buffer.isBuffer(answer) ? answer.toString() : answer
}

/** How the driver calls the errors that it knows. */
const words: Readonly<Record<string, string>> = {
  ResponseError: 'ERR',
  ExecAbortError: 'EXECABORT',
  BusyLoadingError: 'LOADING',
  NoScriptError: 'NOSCRIPT',
  Moved: 'MOVED',
  Ask: 'ASK',
  TryAgain: 'TRYAGAIN',
  ClusterDown: 'CLUSTERDOWN',
  CrossSlot: 'CROSSSLOT',
  MasterDown: 'MASTERDOWN',
  ReadOnly: 'READONLY',
  NotBusy: 'NOTBUSY',
  PermissionDenied: 'NOPERM',
}

/** An error of the server in its own words; any other error as it is. */
function asTheServerSaid(error: unknown): unknown {
  if (!(error instanceof Error) || error.constructor.name !== 'RequestError') return error
  const known = /^An error was signalled by the server:? - (\w+)(?:: (.*))?$/s.exec(error.message)
  const other = /^([A-Z]+): (.*)$/s.exec(error.message)
  const [, kind = '', detail = ''] = known ?? other ?? []
  const word = known === null ? kind : words[kind]
  if (word === undefined || word === '') return error
  return Object.assign(new Error(`${word} ${detail}`.trim(), { cause: error }), { name: 'ReplyError' })
}

/** A client that was made for us alone: it is closed in the end. */
export class ValkeyGlideOwn extends OwnConnection<ValkeyGlideClient> implements RedisListenConnection {
  /** Which connections to the server it had when it was first asked. */
  #beginning: Promise<string> | undefined
  #isReading = false

  protected override open(client: ValkeyGlideClient): void {
    if (this.isOver) client.close()
  }

  protected override scripting(client: ValkeyGlideClient): RedisScripting {
    return new ValkeyGlideScripting(client)
  }

  protected override close(client: ValkeyGlideClient): void {
    client.close()
  }

  async subscribe(channel: string): Promise<void> {
    this.#beginning ??= this.#connections()
    await this.#beginning
    const client = await this.client
    this.#read(client)
    await client.subscribe([channel], SUBSCRIBE_MS).catch((cause: unknown) => {
      const doubt = 'is its protocol RESP3, and may this user SUBSCRIBE?'
      throw new Error(`the client of valkey-glide has not subscribed within ${SUBSCRIBE_MS} ms: ${doubt}`, { cause })
    })
  }

  async unsubscribe(channel: string): Promise<void> {
    await (await this.client).unsubscribe([channel], SUBSCRIBE_MS)
  }

  /** A sign of life. It ends where the driver has connected again: messages may have been missed. */
  async ping(): Promise<void> {
    const [now, before] = await Promise.all([this.#connections(), this.#beginning])
    if (before === undefined || before === now) return
    this.fail(new Error('the client of valkey-glide has lost its connection and made another'))
  }

  /** The numbers of its connections, or, without the right to ask for them, the same answer each time. */
  async #connections(): Promise<string> {
    const client = await this.client
    const everywhere = isClusterClient(client) && ({ route: 'allPrimaries' } as const)
    const ids = client.customCommand(['CLIENT', 'ID'], { decoder: BYTES, ...everywhere })
    const answer = await ids.catch((error: unknown) => rethrowUnlessReply(asTheServerSaid(error)))
    // The nodes come in any order.
    return [answer]
      .flat()
      .map((id) => JSON.stringify(id))
      .toSorted()
      .join()
  }

  #read(client: ValkeyGlideClient): void {
    if (this.#isReading) return
    this.#isReading = true
    const next = async (): Promise<void> => {
      while (!this.isOver) this.#tell(await client.getPubSubMessage())
    }
    next().catch((error: unknown) => this.fail(error))
  }

  #tell({ channel, message }: ValkeyGlideMessage): void {
    this.emit('message', String(channel), String(message))
  }
}

function rethrowUnlessReply(error: unknown): undefined {
  if ((error as { readonly name?: unknown } | null)?.name !== 'ReplyError') throw error
  return undefined
}
