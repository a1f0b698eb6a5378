/**
 * Health for the probes of an orchestrator.
 *
 * *Live*: no work goes on without its lease. A process is ill if a Hold was lost longer ago than `tolerance` and its user has not let go of it
 * (`release()`, `await using`): its signal has aborted, and the work has not ended. A restart ends that work. A process that waits for a lease
 * is live, and so is one whose store is away: a restart would not bring the store back.
 *
 * *Ready*: the store has answered lately, and, if that is asked for, this process leads.
 */
import {
  reasonOf,
  sleep,
  systemClock,
  traces,
  type Clock,
  type Hold,
  type HoldTrace,
  type LossReason,
  type Manager,
} from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { onTrace } from './channels.ts'
import type { DurationLike } from './duration.ts'

/** Options of `health`. */
export interface HealthOptions {
  /** How long work may take to end after its lease was lost. @default 30 seconds */
  readonly tolerance?: DurationLike | undefined
  /** Ready only if the store has answered within this time. A probe reads one name where it must. @default the store is not asked */
  readonly answeredWithin?: DurationLike | undefined
  /** Ready only while this manager holds this lease, and may rely on it. @default a process that does not lead is ready too */
  readonly leader?: string | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** What a probe answers. */
export interface HealthReport {
  readonly ok: boolean
  /** Why not; empty if `ok`. For people: with names of leases and holders. */
  readonly problems: readonly string[]
}

const OPTIONS: readonly (keyof HealthOptions)[] = ['tolerance', 'answeredWithin', 'leader', 'clock']

/** A name that nobody claims: its read shows whether the store answers. */
const PROBE = 'lease-otel-health'

/**
 * Follows the Holds of this manager from now on: call it before the first claim.
 *
 * @throws ErrNotValid with every problem
 */
export function health(manager: Pick<Manager, 'find'>, options: HealthOptions = {}): Health {
  const reader = new OptionReader(options, OPTIONS, { arguments: { manager } })
  reader.object('manager', 'a Manager', ['find'])
  const { answeredWithin, leader } = reader.read
  const toleranceMs = reader.duration('tolerance', 30_000)
  const answeredWithinMs = answeredWithin === undefined ? undefined : reader.duration('answeredWithin')
  reader.must('leader', leader === undefined || typeof leader === 'string', 'must be the name of a lease')
  const clock = reader.clock() ?? systemClock
  reader.finish()
  return new Health(manager, { toleranceMs, answeredWithinMs, leader, clock })
}

interface ParsedOptions {
  readonly toleranceMs: number
  readonly answeredWithinMs: number | undefined
  readonly leader: string | undefined
  readonly clock: Clock
}

/** A Hold that was lost. */
interface LostHold {
  readonly lease: string
  readonly holder: string
  readonly reason: LossReason | undefined
  readonly lostMs: number
  /** Collected: nobody can release it any more, and no work waits for it. */
  readonly hold: WeakRef<object>
}

/** Answers probes. `health()` makes it. */
export class Health {
  readonly #manager: Pick<Manager, 'find'>
  readonly #options: ParsedOptions
  readonly #lost = new Map<HoldKey, LostHold>()
  readonly #keys = new WeakMap<HoldTrace, HoldKey>()
  /** The Holds of the leader's lease. */
  readonly #leading = new Set<HoldTrace>()
  /** When the store answered last. */
  #answeredMs = Number.NEGATIVE_INFINITY
  #asking: Promise<void> | undefined
  #failure: unknown
  readonly #end: () => void

  constructor(manager: Pick<Manager, 'find'>, options: ParsedOptions) {
    this.#manager = manager
    this.#options = options
    const own = (listener: (trace: HoldTrace) => void) => (trace: HoldTrace) => {
      if (trace.manager === manager) listener(trace)
    }
    this.#end = onTrace(traces.hold, {
      start: own((trace) => {
        if (trace.lease === options.leader) this.#leading.add(trace)
      }),
      asyncStart: own((trace) => this.#over(trace)),
      asyncEnd: own((trace) => this.#letGo(trace)),
    })
  }

  #over(trace: HoldTrace): void {
    this.#leading.delete(trace)
    if (trace.outcome !== 'lost') return
    const { lease, holder, reason, hold } = trace
    const key: HoldKey = {}
    this.#keys.set(trace, key)
    this.#lost.set(key, { lease, holder, reason, lostMs: this.#options.clock.monotonic(), hold: new WeakRef(hold) })
  }

  #letGo(trace: HoldTrace): void {
    const key = this.#keys.get(trace)
    if (key !== undefined) this.#lost.delete(key)
  }

  /** Whether no work goes on for longer than `tolerance` without its lease. Asks nobody. */
  live(): HealthReport {
    const { clock, toleranceMs } = this.#options
    const nowMs = clock.monotonic()
    const problems: string[] = []
    for (const [key, { lease, holder, reason, lostMs, hold }] of this.#lost) {
      if (hold.deref() === undefined) this.#lost.delete(key)
      else if (nowMs - lostMs > toleranceMs) {
        const ago = ((nowMs - lostMs) / 1000).toFixed(0)
        problems.push(`lease "${lease}" of "${holder}" was lost ${ago} s ago (${reason}), and its work has not ended`)
      }
    }
    return reportOf(problems)
  }

  /** Whether the store has answered lately, and this process leads, as far as either is asked for. Takes at most `answeredWithin`. */
  async ready(): Promise<HealthReport> {
    const { leader, answeredWithinMs } = this.#options
    const problems: string[] = []
    if (answeredWithinMs !== undefined) {
      const why = await this.#silence(answeredWithinMs)
      if (why !== undefined) problems.push(why)
    }
    const leads = leader === undefined || [...this.#leading].some(({ hold }) => (hold as Hold).held)
    if (!leads) problems.push(`this process does not hold lease "${leader}"`)
    return reportOf(problems)
  }

  /** Ends it: nothing is followed any more. Idempotent. */
  stop(): void {
    this.#end()
    this.#lost.clear()
    this.#leading.clear()
  }

  /** Why the store counts as away; undefined: it has answered within this time. */
  async #silence(withinMs: number): Promise<string | undefined> {
    const { clock } = this.#options
    const sinceMs = (): number => clock.monotonic() - this.#answeredMs
    if (sinceMs() > withinMs / 2) this.#ask()
    if (sinceMs() > withinMs && this.#asking !== undefined) {
      const given = new AbortController()
      const timer = sleep(clock, withinMs, given.signal).catch(() => {})
      await Promise.race([this.#asking, timer])
      given.abort()
    }
    if (sinceMs() <= withinMs) return undefined
    const why = this.#failure === undefined ? '' : `: ${reasonOf(this.#failure)}`
    return `the store has not answered within ${withinMs / 1000} s${why}`
  }

  /** One question at a time. */
  #ask(): void {
    if (this.#asking !== undefined) return
    this.#asking = this.#manager.find(PROBE).then(
      () => {
        this.#answeredMs = this.#options.clock.monotonic()
        this.#failure = undefined
        this.#asking = undefined
      },
      (error: unknown) => {
        this.#failure = error
        this.#asking = undefined
      },
    )
  }
}

/** Stands for a Hold, and keeps nothing of it alive. */
type HoldKey = object

function reportOf(problems: readonly string[]): HealthReport {
  return { ok: problems.length === 0, problems }
}
