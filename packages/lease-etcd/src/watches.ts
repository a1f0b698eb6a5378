/**
 * All watches of one driver, of every namespace and client, on one stream: a watch is cheap, a stream is not.
 *
 *     opened ──create──▶ begun at a revision ──▶ events … ──close──▶ cancelled
 *        ▲                   │
 *        └──stream broken────┘    or what it should tell of was compacted
 *
 * - The stream is open while somebody keeps it open (`keep`). When it breaks, another one is made (`HintStream`), and every watch begins
 *   again, from then on. A listener is notified each time that its watch has begun, and at which revision: what happened between the
 *   revision that it knows and that one it may have missed.
 * - A watch from a revision of the past is behind for up to 100 ms: so often etcd looks at those. A watch from now on is reported at once.
 * - A watch that the server refuses is tried again on a stream for which the driver has logged in anew, for its token may have been too
 *   old. Refused there, it lacks a right: its listener is notified, and nobody else is disturbed.
 *
 * The stream is the bare one. etcd3's own watcher reconnects without notice, and forgets what happened in that time. A sign of life
 * is the answer to one more watch: etcd may leave a request for progress unanswered while a watch is behind.
 */
import type { Clock } from 'lease-core'
import { HintStream, type HintConnection, type HintStreamOptions } from 'lease-core/adapter'
import type {
  EtcdDriver,
  EtcdKeyValue,
  EtcdWatchAnswer,
  EtcdWatchedKey,
  EtcdWatchRequest,
  EtcdWatchStream,
} from './driver.ts'

/** How long a new stream may take to begin: gRPC itself waits without end for a connection that stays silent. */
const OPENING_MS = 5_000
/** For how long after a login the server's refusal is about rights, and not about the token. */
const FRESH_MS = 60_000

/** etcd's own numbers: which events are left out. */
export const NO_PUTS = 0
export const NO_DELETES = 1

/** What is watched: one key, or all up to the end of the range. */
export interface WatchRange {
  readonly key: Buffer
  readonly range_end?: Buffer
  readonly filters: readonly number[]
  /** Whether to tell what each key was before. */
  readonly prev_kv?: boolean
}

export interface WatchedChange {
  readonly revision: number
  readonly isRemoved: boolean
  /** What the key was, where that was asked for and is known. */
  readonly before?: EtcdKeyValue | undefined
}

export interface WatchListener {
  /**
   * From the events after this revision on everything is notified.
   *
   * @param isLate what should have been notified until then is gone, for it was compacted
   */
  begun(revision: number, isLate: boolean): void
  /** A key was put, or removed. */
  event(kv: EtcdWatchedKey, change: WatchedChange): void
  /** The server refuses it, for want of a right. */
  denied(reason: string): void
}

export interface WatchOptions {
  /** Tell of what happened after this revision as well. If that is compacted, `begun` says from when on. */
  readonly since?: string | undefined
  /** It begins after all others on each new stream: so when it has, all have. */
  readonly last?: boolean | undefined
}

/** Makes any call that is no watch, and never rejects: for that the driver logs in again where its token is refused. */
export type Login = () => Promise<unknown>

/** A call of grpc-js before it is sent, and how to make one. */
interface GrpcCall {
  start(metadata: GrpcMetadata, listener: unknown): void
}
interface GrpcMetadata {
  clone(): GrpcMetadata
  set(key: string, value: string): void
}

/** A member that is cut off from its leader ends the stream instead of falling silent. */
function requireLeader(options: never, next: (options: never) => GrpcCall): GrpcCall {
  const call = next(options)
  const start = call.start.bind(call)
  call.start = (metadata, listener) => {
    const own = metadata.clone() // the driver keeps one for all calls, with the user's token
    own.set('hasleader', 'true')
    start(own, listener)
  }
  return call
}

interface Watch {
  readonly range: WatchRange
  readonly listener: WatchListener
  readonly last: boolean
  /** Until it has begun. */
  since: string | undefined
  /** Some of what it should tell of was compacted. */
  isLate: boolean
}

/** Is called after each stream that failed, with how many have failed in a row. */
export type Failed = NonNullable<HintStreamOptions['failed']>

/** By the driver and the clock. */
const known = new WeakMap<EtcdDriver, WeakMap<Clock, Watches>>()

export class Watches {
  readonly #etcd: EtcdDriver
  readonly #clock: Clock
  readonly #streams: HintStream
  readonly #keepers = new Map<Login, Failed>()
  readonly #watches = new Map<string, Watch>()
  /** Those to be created whose answer is still to come, in order. */
  #creating: string[] = []
  #stream: EtcdWatchStream | undefined
  #ids = 0
  #isKept = false
  /** The last stream was refused: the driver would begin the next one with the same token. */
  #isRefused = false
  #freshUntilMs = 0

  private constructor(etcd: EtcdDriver, clock: Clock) {
    this.#etcd = etcd
    this.#clock = clock
    this.#streams = new HintStream({ clock, connect: (_tell, signal) => this.#connect(signal), failed: this.#failed })
  }

  /** The same object for the same driver. */
  static of(etcd: EtcdDriver, clock: Clock): Watches {
    const clocks = known.get(etcd) ?? new WeakMap<Clock, Watches>()
    known.set(etcd, clocks)
    const watches = clocks.get(clock) ?? new Watches(etcd, clock)
    clocks.set(clock, watches)
    return watches
  }

  /** Whether a stream is open now. */
  get isOpen(): boolean {
    return this.#stream !== undefined
  }

  /** Keeps a stream open from now on. Returns how to let go of it; that resolves when a stream that nobody needs any more is closed. */
  keep(login: Login, failed: Failed = ignore): () => Promise<void> {
    const own: Login = () => login()
    this.#keepers.set(own, failed)
    if (!this.#isKept) this.#streams.watch(ignore)
    this.#isKept = true
    return async () => {
      this.#keepers.delete(own)
      if (this.#keepers.size > 0) return
      this.#isKept = false
      await this.#streams.close()
    }
  }

  /** A watcher that is there more than once is notified once. */
  readonly #failed: Failed = (error, attempts) => {
    for (const tell of new Set(this.#keepers.values())) tell(error, attempts)
  }

  /** Watches from now on, for as long as a stream is kept open. Returns how to stop. */
  open(range: WatchRange, listener: WatchListener, { since, last = false }: WatchOptions = {}): () => void {
    let id = ''
    const watch: Watch = { range, listener, since, last, isLate: false }
    id = this.#add(watch)
    return () => this.#close(watch, id)
  }

  #add(watch: Watch): string {
    const id = String(++this.#ids)
    this.#watches.set(id, watch)
    if (this.#stream !== undefined) this.#create(id, watch)
    return id
  }

  #close(watch: Watch, id: string): void {
    // It may have another number by now.
    const now = this.#watches.get(id) === watch ? id : [...this.#watches].find(([, one]) => one === watch)?.[0]
    if (now === undefined) return
    this.#watches.delete(now)
    this.#send({ cancel_request: { watch_id: now } })
  }

  #create(id: string, { range, since }: Watch): void {
    const { key, range_end, filters, prev_kv } = range
    this.#creating.push(id)
    this.#send({
      create_request: {
        key,
        ...(range_end === undefined ? {} : { range_end }),
        filters: [...filters],
        ...(prev_kv === undefined ? {} : { prev_kv }),
        watch_id: id,
        ...(since === undefined ? {} : { start_revision: String(BigInt(since) + 1n) }),
      },
    })
  }

  #send(request: EtcdWatchRequest): void {
    this.#stream?.write(request)
  }

  // ── one stream ────────────────────────────────────────────────────────────────────────────────────────────────

  async #connect(signal: AbortSignal): Promise<HintConnection> {
    if (this.#isRefused) {
      const [login] = this.#keepers.keys()
      await login?.()
      this.#freshUntilMs = this.#clock.monotonic() + FRESH_MS
    }
    this.#isRefused = false
    const stream = await this.#etcd.watchClient.watch({ interceptors: [requireLeader] })
    let end = (): void => {}
    const ended = new Promise<void>((resolve) => (end = resolve))
    let alive = (): void => {}
    return await new Promise((resolve, reject) => {
      // Half-closed first: etcd3 takes a stream cut off while it can be written to for a broken server, and drops its
      // other connections.
      const close = (): void => {
        stream.end()
        stream.cancel()
      }
      const opening = this.#clock.setTimer(OPENING_MS, () => {
        fail(new Error('the watch did not begin in time'))
        // Not half-closed: so etcd3 drops the connections of this member, and the next watch gets another one.
        stream.cancel()
      })
      const fail = (error: Error): void => {
        opening.cancel()
        signal.removeEventListener('abort', abandon)
        if (this.#stream === stream) this.#stream = undefined
        end()
        reject(error)
      }
      const abandon = (): void => {
        fail(signal.reason as Error)
        close()
      }
      const ping = (): Promise<void> => {
        const answered = new Promise<void>((resolve) => (alive = resolve))
        this.#ping()
        return answered
      }
      stream.on('error', fail)
      stream.on('end', () => fail(new Error('the watch ended')))
      stream.on('data', (answer: EtcdWatchAnswer) => {
        if (this.#stream !== stream) return // it is being closed
        alive()
        opening.cancel()
        resolve({ ended, ping, close: abandon })
        if (this.#answered(answer)) return
        this.#isRefused = true
        fail(new Error(`a watch was refused: ${answer.cancel_reason ?? ''}`))
        close()
      })
      if (signal.aborted) return abandon()
      signal.addEventListener('abort', abandon, { once: true })
      this.#stream = stream
      this.#creating = []
      const watches = [...this.#watches]
      for (const isLast of [false, true]) {
        for (const [id, watch] of watches) if (watch.last === isLast) this.#create(id, watch)
      }
    })
  }

  /** Asks for one more watch, which is not wanted. */
  #ping(): void {
    const [watch] = this.#watches.values()
    if (watch === undefined) return
    const id = String(++this.#ids)
    this.#create(id, { ...watch, since: undefined })
  }

  /** Returns false where the whole stream is refused. */
  #answered({
    header,
    watch_id,
    created,
    canceled,
    cancel_reason,
    compact_revision,
    events,
  }: EtcdWatchAnswer): boolean {
    if (created) {
      // What is refused may come without its number, but in its turn.
      const turn = this.#creating.indexOf(watch_id)
      const [id = watch_id] = this.#creating.splice(Math.max(0, turn), 1)
      const watch = this.#watches.get(id)
      if (canceled && !isCompacted(compact_revision)) return this.#refused(id, cancel_reason ?? '')
      if (watch === undefined) this.#send({ cancel_request: { watch_id: id } }) // closed meanwhile, or a sign of life
      else if (!canceled) {
        const revision = watch.since === undefined ? Number(header.revision) : Number(watch.since)
        const { isLate } = watch
        watch.since = undefined
        watch.isLate = false
        watch.listener.begun(revision, isLate)
      }
    }
    const watch = this.#watches.get(watch_id)
    if (watch === undefined) return true
    if (canceled) {
      if (!isCompacted(compact_revision)) return this.#refused(watch_id, cancel_reason ?? '')
      // What it should tell of is gone: it begins now.
      this.#watches.delete(watch_id)
      watch.since = undefined
      watch.isLate = true
      this.#add(watch)
      return true
    }
    for (const { kv, prev_kv } of events) {
      const before = prev_kv ?? undefined
      watch.listener.event(kv, { revision: Number(kv.mod_revision), isRemoved: kv.version === '0', before })
      if (this.#watches.get(watch_id) !== watch) break
    }
    return true
  }

  /** It is tried again on the next stream. */
  #refused(id: string, reason: string): boolean {
    const watch = this.#watches.get(id)
    if (watch === undefined) return true
    if (this.#clock.monotonic() >= this.#freshUntilMs) return false
    watch.listener.denied(reason)
    return true
  }
}

function isCompacted(revision: string | undefined): boolean {
  return revision !== undefined && revision !== '0'
}

function ignore(): void {}
