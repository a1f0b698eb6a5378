/** One run: random steps, then the faults end, and everything has to come to rest. */
import { getEventListeners } from 'node:events'
import { countedName } from 'lease-core'
import { runSteps, strike, Weighted, type Outcome, type Random, type RunOptions } from 'lease-simulation'
import { LOCK_ACTS, SEMAPHORE_ACTS, SEMAPHORE_OPERATOR_ACTS, SEMAPHORES, STOP_COUNTED } from './counted.ts'
import { crowd } from './crowd.ts'
import { growLimit } from './grown-limit.ts'
import { LEADER_ACTS, LEADER_OPERATOR_ACTS } from './leaders.ts'
import type { Settings } from './settings.ts'
import { Calls, type Act, type Step } from './step.ts'
import {
  FENCED_ACTS,
  FENCED_OPERATOR_ACTS,
  forceRelease,
  isAbandoned,
  WORK_ACTS,
  WORK_OPERATOR_ACTS,
  write,
} from './works.ts'
import { World } from './world.ts'

export async function run(settings: Settings, options: RunOptions = {}): Promise<Outcome> {
  const emitWarning = process.emitWarning.bind(process)
  let world: World
  process.emitWarning = (warning: string | Error) => {
    // Others are of releases that fail, which nobody waits for, and of listeners that throw.
    if (warning instanceof Error && warning.name === 'MaxListenersExceededWarning')
      world.problem('7 listeners', warning.message)
  }
  try {
    return await runSteps(settings, options, () => {
      world = new World(settings, options)
      const calls = new Calls()
      const acts = actsOf(settings)
      return { world, take: (_step, random) => take(world, calls, acts, random), rest: () => rest(world, calls) }
    })
  } finally {
    process.emitWarning = emitWarning
  }
}

// ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

function actsOf({ semaphores, locks, leaders, works, operators, restarts }: Settings): Weighted<Act | 'time'> {
  const when = (condition: boolean, acts: readonly (readonly [number, Act])[]): readonly (readonly [number, Act])[] =>
    condition ? acts : []
  return new Weighted<Act | 'time'>([
    ...when(semaphores, SEMAPHORE_ACTS),
    ...when(semaphores && operators, SEMAPHORE_OPERATOR_ACTS),
    ...when(locks, [...LOCK_ACTS, ...FENCED_ACTS]),
    ...when(locks && operators, FENCED_OPERATOR_ACTS),
    ...when(semaphores || locks, [[1, STOP_COUNTED]]),
    ...when(leaders, LEADER_ACTS),
    ...when(leaders && operators, LEADER_OPERATOR_ACTS),
    ...when(works, WORK_ACTS),
    ...when(works && operators, WORK_OPERATOR_ACTS),
    ...when(restarts, [[1, restart]]),
    [10, end],
    [3, write],
    [4, ({ world, random, calls }) => calls.abort({ world, random })],
    [6, fault],
    [14, 'time'],
  ])
}

async function take(world: World, calls: Calls, acts: Weighted<Act | 'time'>, random: Random): Promise<void> {
  const act = acts.pick(random)
  const life = random.maybe(world.lives.filter((one) => world.runs(one) && !one.isStopping))
  if (act === 'time' || life === undefined) await advance(world, random)
  else act({ world, random, life, calls })
  if (random.chance(0.4)) await world.time.settle()
  else if (random.chance(0.3)) await world.time.advance(random.int(20))
  world.lookAtAll()
}

async function advance(world: World, random: Random): Promise<void> {
  const ms = random.pick([1, 5, 20, 100, 300, 1_000, 3_000, 10_000])
  world.note(undefined, `${ms} ms pass`)
  const parts = 1 + random.int(3)
  for (let part = 0; part < parts && world.problems.length === 0; part++) {
    await world.time.advance(ms / parts)
    world.lookAtAll()
  }
}

/** Gives something back, or ends a work. */
function end({ random, life }: Step): void {
  random.maybe(life.things)?.end()
}

function restart({ world, random, life }: Step): void {
  if (random.chance(0.5)) world.kill(life)
  else world.restart(life, { isRough: random.chance(0.3) })
}

const LEASES = [
  'semaphores/S#',
  'rwlocks/L#',
  'weblocks/W#',
  'locks:F',
  'authority',
  'path',
  'lead',
  'X',
  'Y',
  'once/K',
]

function fault({ world, random, life }: Step): void {
  strike({ sim: world, random, life, lease: random.pick(LEASES) })
}

// ── rest ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Longer than any packet is under way, any request is repeated, and any lease lasts. */
const CALM_MS = 60_000
/** Until this all marks have lapsed. */
const FORGOTTEN_MS = 320_000
/** A client that is closed tells the store for so long who has left. */
const CLOSING_MS = 1_000

async function rest(world: World, calls: Calls): Promise<void> {
  world.note(undefined, 'the faults end')
  world.isCalm = true
  for (const { faulty } of world.lives) faulty.heal()
  for (let passedMs = 0; passedMs < CALM_MS; passedMs += 1_000) await endAll(world, 1_000)
  while (world.lives.some(({ isStopping }) => isStopping) && world.problems.length === 0) {
    await endAll(world, 1_000)
    if (world.nowMs > 10_000_000) return world.problem('6 stop', 'a process does not stop')
  }
  for (const { faulty } of world.lives) faulty.heal()
  await setUp(world)
  await serveWaiters(world)
  if (world.problems.length === 0 && world.settings.semaphores) await growLimit(world)
  if (world.problems.length === 0) await crowd(world, calls, () => endAll(world, 100))
  if (world.problems.length > 0) return

  calls.abortAll()
  for (let passedMs = 0; passedMs < 10_000; passedMs += 500) await endAll(world, 500)
  left(world, 'when all was given back', new Set(['authority', 'path', 'lead']))
  for (const life of world.lives) life.isStopping = true
  const stopped = Promise.all(world.lives.map((life) => life.stopRecipes()))
  let isStopped = false
  void stopped.then(() => (isStopped = true))
  for (let passedMs = 0; passedMs < 20_000; passedMs += 500) await endAll(world, 500)
  if (!isStopped) world.problem('7 pending', 'stop() of a recipe never ended')
  for (const life of world.lives) world.nothingIsRelied(life)
  left(world, 'when all was stopped', new Set())
  for (const { what, fromMs } of world.pending)
    world.problem('7 pending', `${what} of ${Math.round(fromMs)} never ended`)
  for (const { life, controller } of calls.given) {
    const listeners = getEventListeners(controller.signal, 'abort').length
    if (!life.isOver && listeners > 0) world.problem('7 listeners', `${listeners} listen to a signal that nobody needs`)
  }
  await world.time.advance(FORGOTTEN_MS)
  const [some] = world.settings.clockless ? [] : world.leases.keys()
  if (some !== undefined) world.problem('7 left', `${some} has not lapsed`)
  world.judgeLapsed()
  leftovers(world, 'before the managers stop')
  for (const { manager } of world.lives) await manager.stop()
  await world.time.settle()
  leftovers(world, 'after the managers stopped')
  for (const { faulty, name } of world.lives)
    if (faulty.watchers > 0) world.problem('7 subscriptions', `p${name} still listens to the store`)
  const closed = Promise.all(world.lives.map(({ client }) => client.close()))
  await world.time.advance(CLOSING_MS)
  await closed
}

/** Everybody gives back what it has. */
async function endAll(world: World, ms: number): Promise<void> {
  for (const life of world.lives) {
    if (world.runs(life)) for (const thing of life.things) if (thing.relies()) thing.end()
  }
  await world.time.advance(ms)
  world.lookAtAll()
}

/** As an operator does: a limit for which all waiters are few enough, and no lock of the dead. */
async function setUp(world: World): Promise<void> {
  const [life] = world.lives
  if (life === undefined) return
  for (const id of SEMAPHORES) {
    const { capacity } = world.counted.latest(countedName(`semaphores/${id}`))
    const { semaphores } = life
    const n = 4
    if (capacity === undefined) void world.call(life, `create(${id}, ${n})`, () => semaphores.create(id, n))
    else void world.call(life, `resize(${id}, ${n})`, () => semaphores.resize(id, n))
  }
  await endAll(world, 5_000)
  if (world.leases.has('locks:F') && isAbandoned(world.lives)) {
    const { term, pins, vacantFromMs } = world.history.latest('locks:F')
    if (term !== undefined && pins.size === 0 && world.nowMs < vacantFromMs)
      world.problem('7 left', `${term.holder} has locks:F, though nobody relies on it`)
    forceRelease({ world, life })
  }
  await endAll(world, 1_000)
}

/** Nothing is wrong any more: those who wait are served when those before them have given it up. */
async function serveWaiters(world: World): Promise<void> {
  const { maxSleepMs } = world.settings
  const boundMs = 20_000 + 2 * maxSleepMs
  for (let round = 0; round < 200 && world.problems.length === 0; round++) {
    const waiters = [...world.pending].filter(({ what }) => !what.startsWith('lead('))
    if (waiters.length === 0) return
    const isServed = (): boolean => waiters.some((call) => !world.pending.has(call))
    for (let passedMs = 0; passedMs < boundMs && !isServed() && world.problems.length === 0; passedMs += 250) {
      await endAll(world, 250)
      if (world.leases.has('locks:F') && isAbandoned(world.lives) && passedMs % 5_000 === 0)
        forceRelease({ world, life: world.lives[0] as never })
    }
    if (isServed()) continue
    const { what, fromMs, life } = waiters[0] as (typeof waiters)[number]
    world.problem('6 waits', `${what} of p${life.name}, ${Math.round(fromMs)}, was not served within ${boundMs} ms`)
  }
}

/** Nobody has anything any more, except what is meant to lapse. */
function left(world: World, when: string, except: ReadonlySet<string>): void {
  for (const [lease, { holder }] of world.leases) {
    const isMark = lease.startsWith('throttles/') || lease.startsWith('once/') || /^jobs\/.*\/[01]$/.test(lease)
    if (isMark || except.has(lease) || world.history.standing(lease) === undefined) continue
    if (world.settings.clockless && world.nowMs > world.history.lapseOf(lease)) continue
    world.problem('7 left', `${holder} has ${lease} ${when}`)
  }
}

function leftovers(world: World, when: string): void {
  for (const { clock, name } of world.lives) {
    if (clock.pending > 0)
      world.problem('7 timers', `p${name} has ${clock.pending} timers ${when}, the next in ${clock.nextDelayMs} ms`)
  }
  if (!world.isQuiet) world.problem('7 timers', `packets are under way ${when}`)
}
