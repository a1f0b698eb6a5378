/**
 * Hints by LISTEN: one connection for all channels of one pool, or of one factory.
 *
 * One that has fallen silent is ended for all: each makes a new one, the first of them for the rest.
 */
import { hasMethods, notValid, systemClock, type LeaseChange } from 'lease-core'
import { changesIn, type HintConnection, type OpenHintConnection } from 'lease-core/adapter'
import type { PostgresJs, PostgresListenClient } from './driver.ts'
import { isPostgresJs, PostgresJsListener } from './postgres-js.ts'
import { quoteIdentifier } from './schema.ts'

/** Makes a connection of its own, not connected yet. */
export type OpenListenClient = () => PostgresListenClient | PostgresJs | Promise<PostgresListenClient | PostgresJs>

type Tell = (change: LeaseChange) => void

/** By the pool or the factory: the connection that is open. */
const connections = new WeakMap<object, ListenConnection>()

/** Listens to these channels, over the connection that those share who give the same `sharedBy`; `open` makes it. */
export function listenTo(channels: readonly string[], open: OpenListenClient, sharedBy: object): OpenHintConnection {
  return async (tell, signal) => {
    let connection = connections.get(sharedBy)
    if (connection === undefined || connection.isOver) {
      connection = new ListenConnection(open)
      connections.set(sharedBy, connection)
    }
    return connection.listen(channels, tell, signal)
  }
}

/** A connection that has not answered for so long is ended for all when one of them leaves. */
const SILENT_MS = 5_000

class ListenConnection {
  isOver = false
  /** undefined: it is being made. */
  #client: PostgresListenClient | undefined
  readonly #connected: Promise<unknown>
  readonly #tells = new Map<string, Set<Tell>>()
  readonly #ended: Promise<void>
  #resolveEnded = (): void => {}
  #users = 0
  #ping: Promise<unknown> | undefined
  #last: Promise<unknown> = Promise.resolve()
  /** Requests without an answer, and since when the connection owes one. */
  #asked = 0
  #owesSinceMs = 0

  constructor(open: OpenListenClient) {
    this.#ended = new Promise((resolve) => (this.#resolveEnded = resolve))
    this.#connected = this.#answered(this.#connect(open))
    this.#connected.catch(() => void this.#end())
  }

  /** @throws what `open` and the driver throw; ErrNotValid what was made is no connection */
  async #connect(open: OpenListenClient): Promise<unknown> {
    const made = await open()
    const client = isPostgresJs(made) ? PostgresJsListener.by(() => made, 'listen') : made
    if (!hasMethods(client, 'connect', 'query', 'on', 'end')) {
      const rule = 'must make a connection (an object with connect, query, on and end), or a promise of one'
      throw notValid([{ argument: 'listen', rule, value: client }])
    }
    this.#client = client
    // A connection that breaks emits `error`, sometimes twice, and then `end`.
    client.on('error', () => void this.#end())
    client.on('end', () => void this.#end())
    client.on('notification', ({ channel, payload }) => {
      // Where the driver does not tell the channel, anything may have changed in any of them.
      const tells = channel === undefined ? [...this.#tells.values()] : [this.#tells.get(channel) ?? []]
      const changes = changesIn(payload ?? '')
      for (const tell of new Set(tells.flatMap((some) => [...some]))) {
        if (channel === undefined) tell({ kind: 'resync' })
        else changes.forEach(tell)
      }
    })
    if (this.isOver) {
      await this.#farewell()
      throw new Error('nobody waits for this connection any more')
    }
    return client.connect()
  }

  async listen(channels: readonly string[], tell: Tell, signal: AbortSignal): Promise<HintConnection> {
    this.#users++
    let isLeft = false
    const leave = async (): Promise<void> => {
      if (isLeft) return
      isLeft = true
      this.#users--
      const silent = channels.filter((channel) => this.#forget(channel, tell))
      if (this.isOver) return
      const isSilent = this.#asked > 0 && systemClock.monotonic() - this.#owesSinceMs > SILENT_MS
      if (this.#users === 0 || isSilent) return this.#end()
      await Promise.all(
        silent.map((channel) =>
          this.#ask((client) => client.unlisten?.(channel) ?? client.query(`UNLISTEN ${quoteIdentifier(channel)}`)),
        ),
      )
    }
    const abandon = (): void => void leave().catch(() => {})
    signal.addEventListener('abort', abandon, { once: true })
    try {
      await this.#connected
      for (const channel of channels) this.#tells.set(channel, (this.#tells.get(channel) ?? new Set()).add(tell))
      await Promise.all(
        channels.map((channel) =>
          this.#ask((client) => client.listen?.(channel) ?? client.query(`LISTEN ${quoteIdentifier(channel)}`)),
        ),
      )
      signal.throwIfAborted()
    } catch (error) {
      abandon()
      throw error
    } finally {
      signal.removeEventListener('abort', abandon)
    }
    return { ended: this.#ended, ping: () => this.#pinged(), close: leave }
  }

  /** Returns whether nobody is notified of this channel any more. */
  #forget(channel: string, tell: Tell): boolean {
    const tells = this.#tells.get(channel)
    if (tells?.delete(tell) !== true || tells.size > 0) return false
    return this.#tells.delete(channel)
  }

  /** Shared by all who ask while it is under way. */
  #pinged(): Promise<unknown> {
    this.#ping ??= this.#ask((client) => client.query('SELECT 1')).finally(() => (this.#ping = undefined))
    return this.#ping
  }

  /** One after the other: the driver wants it so. */
  #ask(request: (client: PostgresListenClient) => Promise<unknown>): Promise<unknown> {
    const answer = this.#last.then(() => this.#client && request(this.#client))
    this.#last = answer.catch(() => {})
    return this.#answered(answer)
  }

  async #answered(answer: Promise<unknown>): Promise<unknown> {
    if (this.#asked++ === 0) this.#owesSinceMs = systemClock.monotonic()
    try {
      return await answer
    } finally {
      this.#asked--
      this.#owesSinceMs = systemClock.monotonic()
    }
  }

  /** For everybody. One that hangs says no farewell. */
  async #end(): Promise<void> {
    if (this.isOver) return
    this.isOver = true
    this.#resolveEnded()
    await this.#farewell()
  }

  async #farewell(): Promise<void> {
    try {
      await this.#client?.end()
    } catch {
      // it is being thrown away
    }
  }
}
