/** One run: random steps, then the faults end, and everything has to come to rest. */
import { getEventListeners } from 'node:events'
import { release, GivenUp, Steps, unpinOf } from './steps.ts'
import { runSteps, type Outcome, type RunOptions } from 'lease-simulation'
import { Simulation } from './simulation.ts'
import type { Settings } from './settings.ts'
import { countedName, shareName } from '#src/share.ts'
import { PASS_OVER_MS } from '#src/ticket.ts'

export function run(settings: Settings, options: RunOptions = {}): Promise<Outcome> {
  return runSteps(settings, options, () => {
    const world = new Simulation(settings, options)
    const steps = new Steps(world)
    return { world, take: (step, random) => steps.take(step, random), rest: () => rest(world, steps) }
  })
}

/** The longest lease of a run, as an observer counts it. */
const LONGEST_MS = 30_100
/** How long a late packet is under way at most. */
const LATEST_MS = 12_000
/** Longer than any packet is under way, and any request is repeated. */
const CALM_MS = 40_000
/** A client that is closed tells the store for so long who has left. */
const CLOSING_MS = 1000
/**
 * How long a lease that was released may be vacant while somebody waits for it and nothing goes wrong: a hint, two claims, and one of them
 * was in flight, twelve slots, and a pause for each two dead ones that are passed over.
 */
const VACANT_MS = 300 + 4 * 300 + 12 * 100 + 5 * PASS_OVER_MS

async function rest(sim: Simulation, steps: Steps): Promise<void> {
  sim.note(undefined, 'the faults end')
  for (const { faulty } of sim.lives) faulty.heal()
  // Those who sleep wake up; what is under way arrives. What is renewed meanwhile teaches nothing.
  for (let passedMs = 0; passedMs < CALM_MS; passedMs += 1_000) await releaseAll(sim, 1_000)
  sim.lookAtAll()
  await serveWaiters(sim)
  if (sim.problems.length > 0) return

  for (const { life, controller } of steps.aborting) {
    if (!life.isOver) controller.abort(new GivenUp('the end'))
  }
  for (const life of sim.lives) {
    for (const observation of life.observations) {
      sim.call(life, 'return() of an observation at the end', () => observation.return(undefined as never))
    }
  }
  await releaseAll(sim)
  await sim.time.advance(CALM_MS)
  sim.lookAtAll()
  for (const { what, fromMs } of sim.pending) sim.problem('7 pending', `${what} of ${Math.round(fromMs)} never ended`)
  for (const { life, controller } of steps.aborting) {
    const listeners = getEventListeners(controller.signal, 'abort').length
    if (!life.isOver && listeners > 0) sim.problem('7 listeners', `${listeners} listen to a signal that nobody needs`)
  }
  await sim.time.advance(LONGEST_MS)
  leftovers(sim, 'before the managers stop')
  for (const life of sim.lives) await Promise.all(life.managers.map((manager) => manager.stop()))
  await sim.time.settle()
  leftovers(sim, 'after the managers stopped')
  for (const { faulty, name } of sim.lives)
    if (faulty.watchers > 0) sim.problem('7 subscriptions', `p${name} still listens to the store`)
  const closed = Promise.all(sim.lives.map(({ client }) => client.close()))
  await sim.time.advance(CLOSING_MS)
  await closed
}

function leftovers(sim: Simulation, when: string): void {
  for (const { clock, name } of sim.lives) {
    if (clock.pending > 0)
      sim.problem('7 timers', `p${name} has ${clock.pending} timers ${when}, the next in ${clock.nextDelayMs} ms`)
  }
  if (!sim.isQuiet) sim.problem('7 timers', `packets are under way ${when}`)
}

/** Nothing is wrong any more: anyone who waits for a lease gets it when those before it have given it up. */
async function serveWaiters(sim: Simulation): Promise<void> {
  const [first] = sim.lives
  if (first === undefined) return
  // A pin that a process sets which has just woken up may come after its withdrawal.
  const pinning = (): boolean => [...sim.pending].some(({ what }) => what.startsWith('pin('))
  for (let passedMs = 0; passedMs < CALM_MS && pinning(); passedMs += 500) await releaseAll(sim)
  for (const lease of sim.settings.leases) {
    for (const entity of ['e0', 'e1']) unpinOf({ sim, life: first }, lease, entity, first.managers[0] as never)
  }
  for (const share of sim.counted.shares) {
    if (sim.history.latest(share).pins.size === 0) continue
    for (const entity of ['e0', 'e1']) unpinOf({ sim, life: first }, share, entity, first.managers[0] as never)
  }
  const calmMs = sim.nowMs
  crowd(sim)
  // An extension that is still under way may make one of them last anew.
  const { late, suspends, maxSleepMs } = sim.settings
  const boundMs = LONGEST_MS + (suspends ? 2 : 1) * maxSleepMs + 5_000 + (late ? LATEST_MS : 0)
  for (let round = 0; round < 100 && sim.problems.length === 0; round++) {
    await releaseAll(sim)
    const waiters = [...sim.pending].filter(({ what }) => /^(hold|holdAny|waitUntilExpired)\(/.test(what))
    if (waiters.length === 0) return
    const grants = sim.history.opened
    const served = (): boolean => waiters.some((call) => !sim.pending.has(call))
    for (let passedMs = 0; passedMs < boundMs && !served() && sim.problems.length === 0; passedMs += 500) {
      await releaseAll(sim)
      checkVacancies(sim, calmMs)
      checkRoom(sim)
    }
    sim.lookAtAll()
    if (served()) continue
    const { what, fromMs } = waiters[0] as { what: string; fromMs: number }
    const terms = sim.settings.leases
      .map((lease) => `${lease}: ${sim.history.standing(lease)?.holder ?? 'vacant'}`)
      .join(', ')
    const counted = sim.settings.countedNames
      .map((name) => {
        const { capacity, shares } = sim.counted.latest(countedName(name))
        return `; ${name}#: ${shares.size} shares, of ${capacity}`
      })
      .join('')
    sim.problem(
      '6 waits',
      `${what} of ${Math.round(fromMs)} was not served within ${boundMs} ms (${sim.history.opened - grants} terms opened in that time; ${terms}${counted})`,
    )
  }
}

/** Who waits for a lease that was released gets it soon. */
function checkVacancies(sim: Simulation, calmMs: number): void {
  const { maxSleepMs, late, blind, suspends } = sim.settings
  for (const lease of sim.settings.leases) {
    const releasedMs = sim.history.releasedMs(lease)
    if (releasedMs === undefined) continue
    for (const { what, life, fromMs } of sim.pending) {
      const [, leases] = /^(?:hold|holdAny|waitUntilExpired)\(([A-Z,]+)/.exec(what) ?? []
      if (leases?.split(',').includes(lease) !== true || !sim.runs(life)) continue
      // Who hears nothing looks again after a while; and a hint that is under way for long is as good as lost.
      // So is one for a machine that slept, and was passed over during that time: its timers are late.
      const isDeaf = late || suspends || (blind && life.name === 1)
      const rereadMs = (late ? LATEST_MS : 0) + (isDeaf ? maxSleepMs : 0)
      const waitedMs = sim.nowMs - Math.max(releasedMs, fromMs, calmMs)
      if (waitedMs <= VACANT_MS + rereadMs) continue
      sim.problem(
        '6 vacant',
        `${what} of ${Math.round(fromMs)} waits for ${lease}, released ${Math.round(waitedMs)} ms ago`,
      )
    }
  }
}

/** Where there is room for the first in the queue for a share, it comes soon, or it is passed over. */
function checkRoom(sim: Simulation): void {
  const { maxSleepMs, late, blind, suspends } = sim.settings
  const rereadMs = (late ? LATEST_MS : 0) + (late || suspends || blind ? maxSleepMs : 0)
  for (const name of sim.settings.countedNames) {
    const waitedMs = sim.counted.lookAtFirst(countedName(name))
    if (waitedMs <= VACANT_MS + rereadMs) continue
    sim.problem('6 room', `there has been room for the first in the queue of ${name}# for ${Math.round(waitedMs)} ms`)
  }
}

/** In every process some ask for shares, and nothing goes wrong any more. */
function crowd(sim: Simulation): void {
  let index = 0
  for (const name of sim.settings.countedNames) {
    const { capacity = 3 } = sim.counted.latest(countedName(name))
    for (const life of [...sim.lives, ...sim.lives]) {
      const [holder, weight] = [`crowd-${index}`, index++ % 3 === 0 ? capacity : 1]
      const [manager] = life.managers
      const options = { duration: 30_000, wait: true, share: { weight, capacity } }
      const over = sim.claiming(life, [shareName(name, holder)], holder)
      sim.call(life, `hold(${name}#, ${holder}, ${weight})`, async () => manager?.hold(name, holder, options), {
        // A capacity that was given up may have been executed late.
        codes: ['LEASE_INVALID', 'LEASE_NOT_VALID'],
        done: (hold, fromMs) => {
          over('over')
          if (hold === undefined || manager === undefined) return
          const { lease, token, fencingToken } = hold
          life.holds.push({ hold, token, manager, lease, holder, fencingToken, shared: false, deadMs: undefined })
          sim.acknowledge(life, lease, holder, fencingToken, options.duration, fromMs)
        },
      })
    }
  }
}

async function releaseAll(sim: Simulation, ms = 500): Promise<void> {
  for (const life of sim.lives) {
    if (sim.runs(life)) for (const here of life.holds) if (here.hold.held) release({ sim, life }, here)
  }
  await sim.time.advance(ms)
  sim.lookAtAll()
}
