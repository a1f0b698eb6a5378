/**
 * One true time, and a clock for each machine in it: a server, and processes that run fast or slow, stall and sleep.
 *
 *     const time = new SimulatedTime()
 *     const server = time.clock()
 *     const mine = time.clock({ rate: 1.0005 })
 *     const store = new MemoryStore({ clock: server })
 *     const link = new FaultySubstrate(new MemorySubstrate({ store }), { clock: server, receiver: mine, latency: 2 })
 *     const client = new SubstrateClient({ substrate: link, clock: mine })
 *     time.suspend(mine, 60_000)           // from now on, while time passes for all others
 *     await time.advance(120_000)          // every timer of every machine, in the order of true time
 *
 * What a machine sees while the true time passes:
 *
 *     |           | wall | monotonic | boot | timers            | packets that arrive              |
 *     | runs      |  +   |     +     |  +   | at their instants | are handed over at once          |
 *     | stalled   |  +   |     +     |  +   | late, afterwards  | are handed over afterwards       |
 *     | suspended |  +   |           |  +   | do not move       | are handed over afterwards       |
 *     | killed    |      |           |      | never             | are lost; what was sent goes on  |
 *
 * A stalled process still has to be left alone by the test: nothing keeps the test from calling it.
 */
import type { DurationLike } from 'luxon'
import { toMillis } from '../lease.ts'
import { exact, TestClock, type ClockMotor, type TestClockOptions } from './test-clock.ts'
import { turn } from '../turns.ts'

export interface SimulatedClockOptions extends TestClockOptions {
  /** How many milliseconds this machine counts in one of true time. @default 1 */
  readonly rate?: number | undefined
}

export interface StallOptions {
  /** What the process does first when it goes on: it handles what has arrived, or its late timers. @default 'timers' */
  readonly first?: 'timers' | 'packets' | undefined
}

/** So many timers of one instant are a loop that spins. */
const SPIN_LIMIT = 100_000

/** Moves the clocks of several machines. */
export class SimulatedTime {
  #nowMs = 0
  readonly #machines = new Map<TestClock, Machine>()
  #moving = false
  #atThisInstant = 0

  /** The true time since the start, in milliseconds. */
  get nowMs(): number {
    return this.#nowMs
  }

  /** How many timers wait, on all machines that live. */
  get pending(): number {
    let pending = 0
    for (const clock of this.#machines.keys()) pending += clock.pending
    return pending
  }

  /** Of a new machine. Only this object moves it, except that its wall clock may be set. */
  clock({ rate = 1, ...options }: SimulatedClockOptions = {}): TestClock {
    let machine: Machine | undefined
    const clock = new TestClock(options, (motor) => {
      machine = { motor, rate, baseMs: this.#nowMs, baseMonotonicMs: 0, state: 'runs', untilMs: 0, first: 'timers' }
    })
    if (machine === undefined) throw new Error('a clock hands its movement over when it is made')
    machine.baseMonotonicMs = clock.monotonic()
    this.#machines.set(clock, machine)
    return clock
  }

  /** Whether the process of this machine runs. */
  runs(clock: TestClock): boolean {
    return this.#machines.get(clock)?.state === 'runs'
  }

  /** The event loop of the process stands still for so long, from now on. */
  stall(clock: TestClock, duration: DurationLike, { first = 'timers' }: StallOptions = {}): void {
    this.#stop(clock, 'stalled', duration, first)
  }

  /** The machine sleeps for so long, from now on. */
  suspend(clock: TestClock, duration: DurationLike): void {
    this.#stop(clock, 'suspended', duration, 'packets')
  }

  /** The process never runs again: its timers do not fire, and nothing reaches it. */
  kill(clock: TestClock): void {
    this.#machines.get(clock)?.motor.receive(false)
    this.#machines.delete(clock)
  }

  /** Lets time pass for all: from timer to timer, each fires at its own instant, and everything comes to rest. */
  async advance(duration: DurationLike): Promise<void> {
    const ms = toMillis(duration)
    if (!(ms >= 0) || !Number.isFinite(ms)) throw new RangeError(`time does not go back (got ${ms} ms)`)
    if (this.#moving) throw new Error('time is being moved already: await one movement before the next')
    this.#moving = true
    try {
      const endMs = this.#nowMs + exact(ms)
      await turn()
      for (let next = this.#next(); next !== undefined && next.atMs <= endMs; next = this.#next()) {
        this.#goTo(next.atMs)
        if (++this.#atThisInstant > SPIN_LIMIT)
          throw new Error(`something spins: ${SPIN_LIMIT} timers at ${this.#nowMs} ms`)
        this.#happen(next.machine)
        await turn()
      }
      this.#goTo(endMs)
    } finally {
      this.#moving = false
    }
  }

  /** Lets everything come to rest. No time passes. */
  settle(): Promise<void> {
    return this.advance(0)
  }

  #stop(clock: TestClock, state: 'stalled' | 'suspended', duration: DurationLike, first: 'timers' | 'packets'): void {
    const machine = this.#machines.get(clock)
    if (machine?.state !== 'runs') throw new Error('the process does not run')
    machine.baseMonotonicMs = monotonicAt(machine, this.#nowMs)
    machine.baseMs = this.#nowMs
    machine.state = state
    machine.first = first
    machine.untilMs = this.#nowMs + exact(toMillis(duration))
    machine.motor.receive(false)
  }

  /** What happens next, and when. */
  #next(): { readonly machine: Machine; readonly atMs: number } | undefined {
    let next: Machine | undefined
    let atMs = Number.POSITIVE_INFINITY
    for (const machine of this.#machines.values()) {
      const machineMs = nextOf(machine)
      if (machineMs >= atMs) continue
      next = machine
      atMs = machineMs
    }
    return next && { machine: next, atMs: Math.max(atMs, this.#nowMs) }
  }

  #happen(machine: Machine): void {
    const { motor, state, first } = machine
    if (state === 'runs') return motor.fire()
    if (state !== 'waking') machine.state = 'waking'
    const isLate = (motor.dueMs() ?? Number.POSITIVE_INFINITY) <= monotonicAt(machine, this.#nowMs)
    if (isLate && first === 'timers') return motor.fire()
    machine.state = 'runs'
    motor.receive(true)
  }

  #goTo(ms: number): void {
    const passedMs = ms - this.#nowMs
    if (passedMs <= 0) return
    this.#nowMs = ms
    this.#atThisInstant = 0
    for (const machine of this.#machines.values()) {
      if (machine.state !== 'suspended') machine.motor.goTo(monotonicAt(machine, ms))
      else {
        machine.motor.sleep(passedMs)
        machine.baseMs = ms
      }
    }
  }
}

interface Machine {
  readonly motor: ClockMotor
  readonly rate: number
  /** At this true time its monotonic clock showed `baseMonotonicMs`. */
  baseMs: number
  baseMonotonicMs: number
  /** `waking`: its late timers fire, and nothing has reached it yet. */
  state: 'runs' | 'stalled' | 'suspended' | 'waking'
  /** When it goes on. */
  untilMs: number
  first: 'timers' | 'packets'
}

function monotonicAt({ baseMs, baseMonotonicMs, rate }: Machine, ms: number): number {
  return baseMonotonicMs + (rate === 1 ? ms - baseMs : exact(-(ms - baseMs) * rate) * -1)
}

/** When something happens on this machine, in true time; never before that instant by its own clock. */
function nextOf(machine: Machine): number {
  const { motor, state, untilMs, baseMs, baseMonotonicMs, rate } = machine
  if (state === 'waking') return 0
  if (state !== 'runs') return untilMs
  const dueMs = motor.dueMs()
  if (dueMs === undefined) return Number.POSITIVE_INFINITY
  if (rate === 1) return baseMs + dueMs - baseMonotonicMs
  let atMs = baseMs + exact((dueMs - baseMonotonicMs) / rate)
  while (monotonicAt(machine, atMs) < dueMs) atMs = exact(atMs + 0.0005)
  return atMs
}
