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
import {
  contended,
  HintStream,
  late,
  systemClock,
  unknown,
  warnOfNoHints,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type Clock,
  type Holding,
  type LeaseChange,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Trapdoor,
  type Verdict,
} from 'lease-core'
import { claimAny } from './claim-any.ts'
import type { EtcdDriver, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { explained, failureOf } from './explain.ts'
import { etcdTrapdoor } from './guard.ts'
import { endOf, foundIn, Layout, pinsIn } from './layout.ts'
import { watchLeases } from './listener.ts'
import { checkOptions, type EtcdSubstrateOptions } from './options.ts'
import { Requests, type IndexedStep, type Outcome, type Deadline, type Step } from './requests.ts'
import { firstStep } from './steps.ts'
import { get, together } from './txn.ts'
import { alarmWarnings, versionWarnings } from './warnings.ts'

/** The server takes 128 operations in a transaction, those of the longest branch inside included. */
const limits: Substrate['limits'] = { maxOps: 120, maxInFlight: 4 }
/** Keys in one answer; fewer where they are so large that the driver does not accept it. */
const LARGEST_PAGE = 1_000
/** How many keys of somebody else are reported. */
const MOST_WARNINGS = 100
/** How many requests one operation may take before it counts as contended. */
const MAX_ROUNDS = 6

export class EtcdSubstrate implements Substrate {
  readonly watch?: (listener: (change: LeaseChange) => void) => () => void
  readonly #etcd: EtcdDriver
  readonly #layout: Layout
  readonly #clock: Clock
  readonly #requests: Requests
  readonly #hints: HintStream | undefined
  readonly #onWarning: EtcdSubstrateOptions['onWarning']
  /** Keys of somebody else that were reported. */
  readonly #unreadable = new Set<string>()

  /** @throws ErrNotValid with every problem */
  constructor(options: EtcdSubstrateOptions) {
    checkOptions(options, { client: false })
    const { etcd, namespace, prefix = 'lease/', watch = true, clock = systemClock } = options
    this.#etcd = etcd
    this.#onWarning = options.onWarning
    this.#layout = new Layout(prefix, namespace)
    this.#clock = clock
    this.#requests = new Requests(etcd, this.#layout, clock)
    if (watch) {
      const call = (): Promise<unknown> => this.#requests.anyCall()
      const connect = watchLeases(etcd, this.#layout, { clock, call })
      const failed = warnOfNoHints((warning) => this.#onWarning?.(warning), explained)
      const hints = new HintStream({ clock, connect, failed })
      this.#hints = hints
      this.watch = (listener) => hints.watch(listener)
    }
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const deadline = this.#requests.deadline(call)
    const verdicts = Array.from<Verdict>({ length: ops.length }).fill(contended)
    let open: IndexedStep[] = ops.map((op, index) => ({ index, step: firstStep(op, this.#layout) }))
    for (let round = 1; open.length > 0 && round <= MAX_ROUNDS; round++) {
      const outcomes = await this.#requests.round(open, deadline)
      const next: IndexedStep[] = []
      for (const { index, step } of open) {
        const after = nextOf(step, outcomes[index] as Outcome)
        if ('outcome' in after) verdicts[index] = after
        else next.push({ index, step: after })
      }
      open = next
    }
    return verdicts
  }

  async claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    const requests = this.#requests
    return await claimAny(op, this.#layout, { requests, deadline: requests.deadline(call) })
  }

  async read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>> {
    const holdings = new Map<string, Holding>()
    const deadline = this.#requests.deadline(call)
    const kvs = await (leases === undefined
      ? this.#all(this.#layout.leases, deadline)
      : this.#named(leases, (lease) => this.#layout.lease(lease), deadline))
    for (const kv of kvs) {
      const found = leases === undefined ? this.#readable(kv, foundIn) : foundIn(kv)
      if (found !== undefined) holdings.set(this.#layout.nameOf(kv.key), found.holding)
    }
    return holdings
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const pinned = new Map<string, Pins>()
    const deadline = this.#requests.deadline(call)
    const kvs = await (leases === undefined
      ? this.#all(this.#layout.pins, deadline)
      : this.#named(leases, (lease) => this.#layout.keysOf(lease).pin, deadline))
    for (const kv of kvs) {
      const pins = leases === undefined ? this.#readable(kv, pinsIn) : pinsIn(kv)
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
    await Promise.all([this.#hints?.close(), this.#requests.close()])
  }

  /** What a key says; undefined, with a warning, where somebody else wrote it: so it hides no other from a listing. */
  #readable<T>(kv: EtcdKeyValue, read: (kv: EtcdKeyValue) => T): T | undefined {
    try {
      return read(kv)
    } catch (error) {
      const key = kv.key.toString('latin1')
      if (this.#unreadable.has(key) || this.#unreadable.size >= MOST_WARNINGS) return undefined
      this.#unreadable.add(key)
      const message = `${(error as Error).message} It is left out of leases() and pinned(), and its lease can be neither claimed nor read: remove the key.`
      this.#onWarning?.({ warning: 'unreadable-key', message })
      return undefined
    }
  }

  /** A key of each of these leases, as they are at one revision if there are not too many. */
  async #named(
    leases: readonly string[],
    keyOf: (lease: string) => Buffer,
    deadline: Deadline,
  ): Promise<EtcdKeyValue[]> {
    const parts: EtcdRequest[][] = []
    const requests = leases.map((lease) => get(keyOf(lease)))
    for (let from = 0; from < requests.length; from += limits.maxOps) {
      parts.push(requests.slice(from, from + limits.maxOps))
    }
    const answers = await Promise.all(parts.map((part) => this.#requests.txn(together(part), deadline)))
    return answers.flatMap(({ responses }) => responses.flatMap(({ response_range }) => response_range.kvs))
  }

  /** All keys that begin so, as they are at one revision. */
  async #all(prefix: Buffer, deadline: Deadline): Promise<EtcdKeyValue[]> {
    const found: EtcdKeyValue[] = []
    let page = { key: prefix, range_end: endOf(prefix), limit: LARGEST_PAGE, revision: '0' }
    for (;;) {
      try {
        const { kvs, more, header } = await this.#requests.range(page, deadline)
        found.push(...kvs)
        const last = kvs.at(-1)
        if (!more || last === undefined) return found
        page = { ...page, key: after(last.key), revision: page.revision === '0' ? header.revision : page.revision }
      } catch (error) {
        if (failureOf(error) !== 'too-large' || page.limit === 1) throw error
        page = { ...page, limit: Math.ceil(page.limit / 4) }
      }
    }
  }
}

/** What follows from the answer: a verdict, or the step after. */
function nextOf(step: Step, outcome: Outcome): Verdict | Step {
  if ('error' in outcome) return unknown(outcome.error)
  if ('late' in outcome) return late
  try {
    return step.next(outcome.answer, outcome.revision)
  } catch (error) {
    return unknown(error)
  }
}

/** The first key after this one. */
function after(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.alloc(1)])
}
