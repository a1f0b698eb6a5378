/**
 * The substrate on etcd: a batch becomes one transaction (`bundle.ts`), so one fsync carries all its operations, and each
 * has its own verdict (`steps.ts`). What the answers leave open goes into the next round, and so on a few times; then it
 * is `contended`.
 *
 * - *No clocks.* Leases lapse by observation; the etcd leases that the keys hang on are a backstop (`shared-etcd-leases.ts`).
 * - *Every request may be executed twice, and late*: what changes or ends something demands the version on which that was
 *   decided, and what opens a term, sets a pin or changes a value the epoch of its client (`epochs.ts`). So what failed on the way to the
 *   server, or back, is sent again a few times.
 * - *Reads are linearizable*, always: a member that is behind, or cut off, does not answer.
 * - *Every request carries a deadline*, that of the call: whatever the driver's own options say, none hangs.
 */
import { systemClock, type Clock, type LeaseChange, type Trapdoor } from 'lease-core'
import {
  contended,
  granted,
  late,
  OncePerLease,
  unknown,
  warnOfNoHints,
  type Call,
  type Counted,
  type Holding,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from 'lease-core/adapter'
import { AwaitedVacancies } from './awaited-vacancies.ts'
import { ClientHints } from './client-hints.ts'
import type { EtcdDriver, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { explained, failureOf } from './explain.ts'
import { etcdTrapdoor } from './guard.ts'
import { KnownGates } from './gates.ts'
import { endOf, foundIn, Layout, pinsIn } from './layout.ts'
import { NamespaceHints } from './listener.ts'
import { NamespaceQueues } from './namespace-queues.ts'
import { parseOptions, type EtcdSubstrateOptions } from './options.ts'
import { Requests, type IndexedStep, type Outcome, type Deadline, type Step } from './requests.ts'
import { countedIn, isComplete, roomIn, roomReads, type ReadRest } from './room.ts'
import { firstStep } from './steps.ts'
import { allBy, countOf, get, together } from './txn.ts'
import { alarmWarnings, versionWarnings, watchWarning } from './warnings.ts'
import type { StepContext } from './waiting.ts'
import { Watches } from './watches.ts'

/** The server takes 128 operations in a transaction, those of the longest branch inside included. */
const limits: Substrate['limits'] = { maxOps: 120, maxInFlight: 4 }
/** Keys in one answer; fewer where they are so large that the driver does not accept it. */
const LARGEST_PAGE = 1_000
/** How many requests one operation may take before it counts as contended. */
const MAX_ROUNDS = 6

export class EtcdSubstrate implements Substrate {
  readonly watch?: NonNullable<Substrate['watch']>
  readonly store: NonNullable<Substrate['store']>
  readonly #etcd: EtcdDriver
  readonly #layout: Layout
  readonly #clock: Clock
  readonly #requests: Requests
  /** By the client; undefined: of those who hear of everything. */
  readonly #hints = new Map<string | undefined, ClientHints | NamespaceHints>()
  readonly #closing = new Set<Promise<void>>()
  readonly #queues: NamespaceQueues
  readonly #gates = new KnownGates()
  readonly #vacancies = new AwaitedVacancies(this.#gates)
  #warnedOfWatch = false
  readonly #onFailed = warnOfNoHints((warning) => this.#onWarning?.(warning), explained)
  readonly #onWarning: EtcdSubstrateOptions['onWarning']
  /** Leases that a warning has named. */
  readonly #unreadable = new OncePerLease()

  /** @throws ErrNotValid with every problem */
  constructor(options: EtcdSubstrateOptions) {
    const read = parseOptions(options, { client: false })
    const { etcd, namespace, prefix = 'lease/', watch = true, clock = systemClock } = read
    this.store = { system: 'etcd', namespace }
    this.#etcd = etcd
    this.#onWarning = read.onWarning
    this.#layout = new Layout(prefix, namespace)
    this.#clock = clock
    this.#queues = new NamespaceQueues(clock)
    this.#requests = new Requests(etcd, this.#layout, clock)
    if (watch) this.watch = (listener, client) => this.#watch(listener, client)
  }

  get page(): string {
    return 'docs/substrates/etcd.md'
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const deadline = this.#requests.deadline(call)
    const verdicts = Array.from<Verdict>({ length: ops.length }).fill(contended)
    const { client } = call
    const context: StepContext = {
      layout: this.#layout,
      client,
      hints: this.#hintsOf(client),
      queues: this.#queues,
      gates: this.#gates,
      readRest: this.#readRest(deadline),
      named: namesOf(ops),
    }
    let open: IndexedStep[] = []
    const repeated = new Set<number>()
    const settle = (index: number, after: Verdict | Step): void => {
      if (!('outcome' in after)) open.push({ index, step: after })
      else verdicts[index] = repeated.has(index) ? ofRepeated(ops[index] as Op, after) : after
    }
    const awaited = ops.map(({ lease }) => this.#vacancies.has(client, lease))
    for (let index = 0; index < ops.length; index++) {
      const op = ops[index] as Op
      const isNeedless = op.kind === 'passOver' && awaited[index] === false
      settle(index, isNeedless ? granted(undefined) : firstStep(op, context))
    }
    for (let round = 1; open.length > 0 && round <= MAX_ROUNDS;) {
      const steps = open
      if (steps.some(({ step }) => step.goesOn !== true)) round++
      const leftMs = deadline.atMs - this.#clock.now()
      const preparing: Promise<void>[] = []
      for (const { step } of steps) {
        const isReady = step.prepare?.(leftMs)
        if (isReady !== undefined) preparing.push(isReady)
      }
      if (preparing.length > 0) await Promise.all(preparing)
      const outcomes = await this.#requests.round(steps, deadline)
      open = []
      for (const { index, step } of steps) {
        const outcome = outcomes[index] as Outcome
        if ('isRepeated' in outcome && outcome.isRepeated) repeated.add(index)
        settle(index, nextOf(step, outcome))
      }
    }
    for (const [index, op] of ops.entries()) {
      this.#vacancies.learn(client, op, verdicts[index] as Verdict, awaited[index] === true)
    }
    return verdicts
  }

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    const holdings = new Map<string, Holding>()
    const deadline = this.#requests.deadline(call)
    const { kvs, revision } = await (leases === undefined
      ? this.#all(this.#layout.leases, deadline)
      : this.#named(leases, (lease) => this.#layout.lease(lease), deadline))
    const hints = this.#hintsOf(call.client)
    for (const lease of watched) hints?.watched(lease, revision)
    for (const kv of kvs) {
      const found = this.#readable(kv, foundIn)
      if (found !== undefined) holdings.set(this.#layout.nameOf(kv.key), found.holding)
    }
    return holdings
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    const deadline = this.#requests.deadline(call)
    const keys = this.#layout.keysOf(lease)
    const { key } = keys
    for (;;) {
      const { responses, header } = await this.#requests.txn(together(roomReads(keys)), deadline)
      const room = roomIn(responses, 0, header.revision)
      if (isComplete(room)) return countedIn(room, this.#layout)
      try {
        const shares = await this.#readRest(deadline)({ key, range_end: endOf(key), revision: header.revision })
        return countedIn({ ...room, shares }, this.#layout)
      } catch (error) {
        if (failureOf(error) !== 'compacted') throw error
      }
    }
  }

  async waiting(lease: string, call: Call): Promise<number> {
    const { tickets } = this.#layout.keysOf(lease)
    const deadline = this.#requests.deadline(call)
    const { responses } = await this.#requests.txn(together([countOf(tickets, endOf(tickets))]), deadline)
    return Number(allBy(responses, 0).count)
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const pinned = new Map<string, Pins>()
    const deadline = this.#requests.deadline(call)
    const { kvs } = await (leases === undefined
      ? this.#all(this.#layout.pins, deadline)
      : this.#named(leases, (lease) => this.#layout.keysOf(lease).pin, deadline))
    for (const kv of kvs) {
      const pins = this.#readable(kv, pinsIn)
      if (pins !== undefined) pinned.set(this.#layout.nameOf(kv.key), pins)
    }
    return pinned
  }

  async inspect(call: Call): Promise<readonly SubstrateWarning[]> {
    const { maintenance } = this.#etcd
    const deadline = this.#clock.now() + call.timeoutMs
    const [status, alarms] = await Promise.allSettled([
      maintenance.status({ deadline }),
      maintenance.alarm({ action: 0 }, { deadline }),
    ])
    return [
      ...(status.status === 'fulfilled' ? versionWarnings(status.value.version) : []),
      ...(alarms.status === 'fulfilled' ? alarmWarnings(alarms.value.alarms.map(({ alarm }) => alarm)) : []),
    ]
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    const key = this.#layout.lease(lease).toString()
    return etcdTrapdoor({ key, place: this.#etcd, lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    const hints = [...this.#hints.values()]
    this.#hints.clear()
    await Promise.all([...hints.map((one) => one.close()), ...this.#closing, this.#requests.close()])
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #hintsOf(client: string): ClientHints | undefined {
    return this.#hints.get(client) as ClientHints | undefined
  }

  #watch(listener: (change: LeaseChange) => void, client: string | undefined): () => void {
    const own = (change: LeaseChange): void => listener(change)
    let hints = this.#hints.get(client)
    if (hints === undefined) {
      const watches = Watches.of(this.#etcd, this.#clock)
      const login = (): Promise<unknown> => this.#requests.anyCall()
      const onDenied = (reason: string): void => this.#warnOfWatch(reason)
      const onFailed = this.#onFailed
      const options = { watches, layout: this.#layout, clock: this.#clock, login, onDenied, onFailed }
      hints =
        client === undefined ? new NamespaceHints(options) : new ClientHints({ ...options, gates: this.#gates, client })
      this.#hints.set(client, hints)
    }
    hints.add(own)
    return () => {
      hints.delete(own)
      if (hints.isUsed || this.#hints.get(client) !== hints) return
      this.#hints.delete(client)
      const closing = hints.close()
      this.#closing.add(closing)
      void closing.finally(() => this.#closing.delete(closing))
    }
  }

  #warnOfWatch(reason: string): void {
    if (this.#warnedOfWatch) return
    this.#warnedOfWatch = true
    this.#onWarning?.(watchWarning(reason))
  }

  // ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What a key says; undefined where somebody else wrote it: it hides no other key, and does not go unheard, once for each lease. */
  #readable<T>(kv: EtcdKeyValue, read: (kv: EtcdKeyValue) => T): T | undefined {
    try {
      return read(kv)
    } catch (error) {
      const lease = this.#layout.nameOf(kv.key)
      if (!this.#unreadable.isFirst(lease)) return undefined
      this.#onWarning?.({
        warning: 'unreadable-key',
        message: `What is stored of lease ${JSON.stringify(lease)} is not a lease, and was passed over: nobody can claim it. ${(error as Error).message} Remove the key, or choose another prefix or namespace.`,
      })
      return undefined
    }
  }

  /** A key of each of these leases, as they are at one revision if there are not too many. */
  async #named(leases: readonly string[], keyOf: (lease: string) => Buffer, deadline: Deadline): Promise<Found> {
    const parts: EtcdRequest[][] = []
    const requests = leases.map((lease) => get(keyOf(lease)))
    for (let from = 0; from < requests.length; from += limits.maxOps) {
      parts.push(requests.slice(from, from + limits.maxOps))
    }
    const answers = await Promise.all(parts.map((part) => this.#requests.txn(together(part), deadline)))
    const kvs = answers.flatMap(({ responses }) => responses.flatMap(({ response_range }) => response_range.kvs))
    const revisions = answers.map(({ header }) => header.revision)
    return { kvs, revision: revisions.reduce((one, other) => (Number(one) <= Number(other) ? one : other), LATEST) }
  }

  #readRest(deadline: Deadline): ReadRest {
    return async (range) => (await this.#pages(range, deadline)).kvs
  }

  /** All keys that begin so, as they are at one revision. */
  #all(prefix: Buffer, deadline: Deadline): Promise<Found> {
    return this.#pages({ key: prefix, range_end: endOf(prefix), revision: '0' }, deadline)
  }

  /** @param range.revision `0`: that of the first page, and of a later one where history was compacted meanwhile */
  async #pages(range: Parameters<ReadRest>[0], deadline: Deadline): Promise<Found> {
    const found: EtcdKeyValue[] = []
    let page = { ...range, limit: LARGEST_PAGE }
    for (;;) {
      try {
        const { kvs, more, header } = await this.#requests.range(page, deadline)
        found.push(...kvs)
        const last = kvs.at(-1)
        const revision = page.revision === '0' ? header.revision : page.revision
        if (!more || last === undefined) return { kvs: found, revision }
        page = { ...page, key: after(last.key), revision }
      } catch (error) {
        const failure = failureOf(error)
        if (failure === 'compacted' && range.revision === '0') {
          found.length = 0
          page = { ...range, limit: page.limit }
        } else if (failure === 'too-large' && page.limit > 1) page = { ...page, limit: Math.ceil(page.limit / 4) }
        else throw error
      }
    }
  }
}

/** Keys as they were at this revision, or later. */
interface Found {
  readonly kvs: readonly EtcdKeyValue[]
  readonly revision: string
}

/** Of no read at all. */
const LATEST = String(Number.MAX_SAFE_INTEGER)

/** What follows from the answer: a verdict, or the step after. */
function nextOf(step: Step, outcome: Outcome): Verdict | Step {
  if ('error' in outcome) return step.instead?.(outcome.error) ?? unknown(outcome.error)
  if ('late' in outcome) return late
  try {
    return step.next(outcome.answer, outcome.revision)
  } catch (error) {
    return unknown(error)
  }
}

/**
 * The verdict on an operation that was sent again. A release that a later term refuses has ended its own, for all that is known: the answer
 * to an earlier copy may have been lost. As `settlement.ts` of lease-core says it of its own copies.
 */
function ofRepeated(op: Op, verdict: Verdict): Verdict {
  if (op.kind !== 'release' || op.fencingToken === undefined || verdict.outcome !== 'refused') return verdict
  const { holding } = verdict
  return holding !== undefined && holding.fencingToken > op.fencingToken ? granted(holding) : verdict
}

const NO_NAMES: ReadonlySet<string> = new Set()

/** What they name, where that is of interest: where a claim of a share may remove others. */
function namesOf(ops: readonly Op[]): ReadonlySet<string> {
  const isOfInterest = (op: Op): boolean => op.kind === 'claim' && op.share !== undefined && op.share.lapsed.size > 0
  return ops.length > 1 && ops.some(isOfInterest) ? new Set(ops.map(({ lease }) => lease)) : NO_NAMES
}

/** The first key after this one. */
function after(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)])
}
