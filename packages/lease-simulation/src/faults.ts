/** What goes wrong in a step: on the way to the store, with the hints, or with a process and its clocks. */
import { Stopwatch } from 'lease-core'
import type { CallKind, FaultPlace, FaultySubstrate, SimulatedTime, TestClock } from 'lease-core/testing'
import { Weighted, type Random } from './random.ts'

/** Which faults there may be. */
export interface FaultSettings {
  readonly losses: boolean
  readonly late: boolean
  readonly twice: boolean
  readonly hints: boolean
  readonly jumps: boolean
  readonly suspends: boolean
  readonly stalls: boolean
  readonly counted: boolean
  readonly strict: boolean
}

/** A process that something befalls. */
export interface StruckProcess {
  readonly clock: TestClock
  readonly faulty: FaultySubstrate
  /** For so long after a sleep that a wall clock set back has hidden it may rely on a term too long (docs/reliability.md). */
  graceMs: number
}

export interface StruckWorld<P extends StruckProcess> {
  readonly settings: FaultSettings
  readonly time: SimulatedTime
  note(life: P | undefined, what: string): void
  /** Calls back in true time. */
  later(ms: number, then: () => void): void
}

/** Where it strikes. */
interface Strike<P extends StruckProcess> {
  readonly sim: StruckWorld<P>
  readonly random: Random
  readonly life: P
  readonly lease: string
}

type Step = Strike<StruckProcess>

const KINDS = [
  undefined,
  undefined,
  'claim',
  'extend',
  'release',
  'read',
  'pin',
  'unpin',
  'leave',
  'passOver',
  'time',
] as const

const KINDS_OF_COUNTED = [...KINDS, 'claim', 'define', 'counted', 'release', 'leave', 'passOver'] as const

export function strike<P extends StruckProcess>(step: Strike<P>): void {
  const { sim, random } = step
  const { losses, late, twice, hints, jumps, suspends, stalls } = sim.settings
  const when = (condition: boolean, weight: number): number => (condition ? weight : 0)
  const kind = new Weighted<((step: Step) => string) | undefined>([
    [1, heal],
    [when(losses, 6), loss],
    [when(late, 5), lateness],
    [when(twice, 4), twofold],
    [when(hints, 4), hint],
    [when(jumps, 3), jump],
    [when(suspends, 2), suspend],
    [when(stalls, 3), stall],
  ]).pick(random)
  if (kind !== undefined) sim.note(step.life, kind(step))
}

function filterOf({ sim, random, lease }: Step): {
  readonly kind?: CallKind | undefined
  readonly lease?: string | undefined
  readonly times: number
} {
  const kinds = sim.settings.counted ? KINDS_OF_COUNTED : KINDS
  return {
    kind: random.pick<CallKind | undefined>(kinds),
    times: random.pick([1, 1, 2, 3, 5]),
    ...(random.chance(0.4) ? { lease } : {}),
  }
}

function loss(step: Step): string {
  const { random, life } = step
  const { faulty } = life
  const filter = filterOf(step)
  const what = random.pick(['loseReply', 'loseRequest', 'failAfterCommit', 'contended', 'reject', 'hang'] as const)
  if (what === 'reject') faulty.reject(new Error('the server is away'), filter)
  else if (what === 'hang') faulty.hang({ ...filter, at: random.pick<FaultPlace>(['request', 'reply']) })
  else faulty[what](filter)
  return `${what} ${JSON.stringify(filter)}`
}

function lateness(step: Step): string {
  const { random, life } = step
  const { faulty } = life
  const filter = { ...filterOf(step), at: random.pick<FaultPlace>(['request', 'reply']) }
  const ms = random.pick([300, 2_000, 6_000, 12_000]) * random.next()
  const what = random.pick(['delay', 'executeLate', 'holdBack'] as const)
  if (what === 'holdBack') {
    const fault = faulty.holdBack(filter)
    // It goes on after a while, also if nothing else is healed.
    step.sim.later(ms, () => void fault.letGo())
  } else faulty[what](ms, filter)
  return `${what} ${ms.toFixed(0)} ${JSON.stringify(filter)}`
}

function twofold(step: Step): string {
  const filter = filterOf(step)
  const ms = step.random.pick([5, 300, 3_000, 9_000]) * step.random.next()
  step.life.faulty.duplicate(ms, filter)
  return `duplicate ${ms.toFixed(0)} ${JSON.stringify(filter)}`
}

function hint({ random, life, lease }: Step): string {
  const { faulty } = life
  const what = random.pick([
    'dropHints',
    'duplicateHints',
    'disconnectWatch',
    'reconnectWatch',
    'delayHints',
    'emit',
    'emit',
  ] as const)
  if (what === 'delayHints') faulty.delayHints(random.int(3_000))
  else if (what === 'emit') {
    const durationMs = random.pick([500, 30_000])
    const [place, own] = [1 + random.int(8), 1 + random.int(8)]
    const ahead = random.int(4)
    const change = random.pick([
      { kind: 'vacated', lease },
      { kind: 'vacated', lease, to: { place: own, ahead } },
      { kind: 'changed', lease },
      { kind: 'taken', lease, place, durationMs },
      { kind: 'taken', lease, place, durationMs, to: { place: own, ahead } },
      { kind: 'resync' },
    ] as const)
    faulty.emit(change)
    return `a false hint ${JSON.stringify(change)}`
  } else faulty[what]()
  return what
}

function heal({ life }: Step): string {
  life.faulty.heal()
  return 'heal'
}

function jump({ random, life }: Step): string {
  const ms = random.pick([-3_600_000, -70_000, -5_000, -100, 3, 100, 5_000, 70_000, 3_600_000])
  void life.clock.jumpWall(ms)
  // Else a sleep of just as long may hide it, until the next anchor of the time since boot: docs/guarantees.md.
  void new Stopwatch(life.clock).elapsedMs
  return `the wall clock jumps ${ms} ms`
}

function suspend({ sim, random, life }: Step): string {
  const ms = random.pick([50, 900, 5_000, 40_000])
  // Set back at the same time, the wall clock hides the sleep. (By just as much, it hides it for a second: docs/guarantees.md.)
  const isHidden = sim.settings.jumps && random.chance(0.5)
  if (isHidden) {
    void life.clock.jumpWall(-2 * ms - 100)
    if (!sim.settings.strict) life.graceMs = 20
  }
  sim.time.suspend(life.clock, ms)
  return `sleeps ${ms} ms${isHidden ? ', its wall clock set back by more' : ''}`
}

function stall({ sim, random, life }: Step): string {
  const ms = random.pick([10, 200, 1_000, 5_000, 35_000])
  sim.time.stall(life.clock, ms, { first: random.pick(['timers', 'packets'] as const) })
  return `stalls ${ms} ms`
}
