/** Fenced locks, `withLease`, `holdAll`, `Once`, `OncePer`, and guarded writes. */
import { MAX_VALUE_BYTES, MemoryGuard, type Hold } from 'lease-core'
import { countedOf } from 'lease-core/adapter'
import type { CountedEntry } from 'lease-simulation'
import { ErrFenced } from '#src/fencing-gate.ts'
import type { FencedLock } from '#src/fenced-lock.ts'
import { holdAll, type HeldAll } from '#src/hold-all.ts'
import { withLease, type LeaseScope } from '#src/with-lease.ts'
import { stopAndRenew } from './counted.ts'
import { KEEP_RESULT_MS, type Life } from './life.ts'
import { afterTurns, DURATIONS, judgeDenied, takeHeld, WAITS, work, WorkFailed, type Act, type Step } from './step.ts'
import type { World } from './world.ts'

const isFailed = (error: unknown): boolean => error instanceof WorkFailed

// ── fenced locks ────────────────────────────────────────────────────────────────────────────────────────────────

function acquire(step: Step): void {
  const { world, random, life, calls } = step
  const recipe = random.pick(['fail-open lock', 'fail-open lock', 'fail-closed lock'])
  const locks = recipe === 'fail-closed lock' ? life.failClosed : random.pick(life.failOpen)
  const wait = random.pick(WAITS)
  const signal = calls.signal(step, wait === true ? 0.8 : 0.4)
  const done = (held: FencedLock | undefined): void => {
    if (held?.held !== true) return
    // A fail-closed lock stays closed when its recipe stops, and is not relied on any more.
    takeHeld(step, { recipe, resource: 'locks:F', held, isExclusive: true, source: locks })
  }
  const options = { codes: ['LEASE_CLAIM_DENIED'], resource: 'locks:F', signal, done }
  if (wait === false && random.chance(0.5)) {
    return void world.call(life, `tryAcquire() of a ${recipe}`, () => locks.tryAcquire('F', { signal }), options)
  }
  void world.call(life, `acquire(${wait}) of a ${recipe}`, () => locks.acquire('F', { wait, signal }), {
    ...options,
    failed: (error, fromMs) => judgeDenied(step, 'locks:F', error, fromMs),
  })
}

function list({ world, life }: Step): void {
  void world.call(life, 'list()', () => life.failClosed.list(), {
    done: (locks, fromMs) => {
      const [lock] = locks
      const was = world.history.wasTrue('locks:F', fromMs, world.nowMs, (term) => {
        return term?.fencingToken === lock?.fencingToken && term?.holder === lock?.holder
      })
      if (!was) world.problem('5 answers', `list() showed ${lock?.holder ?? 'nobody'}: that was never so`)
    },
  })
}

/** A person frees the lock. */
export function forceRelease({ world, life }: Pick<Step, 'world' | 'life'>): void {
  for (const thing of life.things) if (thing.lease === 'locks:F') thing.isAsked = true
  void world.call(life, 'forceRelease(F)', () => life.failClosed.forceRelease('F'), { codes: ['LEASE_NOT_HELD'] })
}

function stopLocks(step: Step): void {
  const { world, random, life } = step
  const recipe = random.pick([...life.failOpen, life.failClosed])
  const turns = random.int(30)
  const stop = (): void => {
    void afterTurns(turns, () => {
      if (world.runs(life) && !life.isStopping) stopAndRenew(step, recipe)
    })
  }
  if (random.chance(0.5)) life.onGranted.push(stop)
  else stop()
}

// ── works ───────────────────────────────────────────────────────────────────────────────────────────────────────

function underLease(step: Step): void {
  const { world, random, life, calls } = step
  const name = random.pick(['X', 'Y'])
  const wait = random.pick(WAITS)
  const duration = random.pick(DURATIONS)
  const signal = calls.signal(step, wait === true ? 0.7 : 0.3)
  const options = { duration, wait, signal, releaseFailed: () => {} }
  const { manager } = life
  const isNested = random.chance(0.3)
  const body = async ({ signal, fencingToken, hold }: LeaseScope): Promise<string> => {
    const parts = {
      recipe: 'withLease',
      resource: name,
      lease: name,
      fencingToken,
      isExclusive: true,
      held: hold,
      signal,
    }
    const worked = work(step, { ...parts, relies: () => hold.held })
    if (!isNested) return worked
    const inner = withLease(manager, name, options, async (scope) => {
      if (scope.fencingToken !== fencingToken)
        world.problem(
          '5 answers',
          `an inner call on ${name} has term ${scope.fencingToken}, its outer one ${fencingToken}`,
        )
      await Promise.resolve()
    })
    const [outcome, joined] = await Promise.allSettled([worked, inner])
    if (outcome.status === 'rejected') throw outcome.reason
    if (joined.status === 'rejected') throw joined.reason
    return outcome.value
  }
  void world.call(
    life,
    `withLease(${name}, ${JSON.stringify({ duration, wait })})`,
    () => withLease(manager, name, options, body),
    {
      codes: ['LEASE_CLAIM_DENIED', 'LEASE_LOST'],
      resource: name,
      signal,
      expects: isFailed,
      failed: (error, fromMs) => judgeDenied(step, name, error, fromMs),
    },
  )
}

function all(step: Step): void {
  const { world, random, life, calls } = step
  const names = random.pick([['X', 'Y', 'Z'], ['Z', 'X'], ['Y', 'Z'], ['X']])
  const holder = `a${calls.serial()}`
  const wait = random.pick(WAITS)
  const duration = random.pick(DURATIONS)
  const signal = calls.signal(step, wait === true ? 0.8 : 0.4)
  const { manager, clock } = life
  const what = `holdAll(${names.join()}, ${holder}, ${JSON.stringify({ duration, wait })})`
  void world.call(life, what, () => holdAll(manager, names, holder, { duration, wait, signal, clock }), {
    codes: ['LEASE_CLAIM_DENIED', 'LEASE_LOST'],
    signal,
    done: (held) => takeAll(step, held),
  })
}

/** Takes a lease for its time alone, and leaves it to lapse. */
function lapse(step: Step): void {
  const { world, random, life, calls } = step
  const name = random.pick(['X', 'Y', 'Z'])
  const wait = random.pick(WAITS)
  const duration = random.pick(DURATIONS)
  const signal = calls.signal(step, wait === true ? 0.8 : 0.4)
  const hold = (): Promise<Hold> => life.manager.hold(name, `l${calls.serial()}`, { duration, wait, signal })
  void world.call(life, `hold(${name}, ${JSON.stringify({ duration, wait })})`, hold, {
    codes: ['LEASE_CLAIM_DENIED'],
    resource: name,
    signal,
    failed: (error, fromMs) => judgeDenied(step, name, error, fromMs),
    done: (held) => {
      if (!held.held) return
      const { lease, fencingToken } = held
      const end = (): void => {
        world.note(life, `letLapse() of ${lease}, term ${fencingToken}`)
        held.letLapse()
        world.lapsing(life, lease, fencingToken)
      }
      const relies = (): boolean => held.held
      // When the faults have ended nobody lets others wait for nothing.
      const endOrRelease = (): void => {
        if (world.isCalm) void world.call(life, `release() of ${lease}`, () => held.release(), NOT_HELD)
        else end()
      }
      world.take(life, {
        ...{ recipe: 'hold', resource: lease, lease, fencingToken, isExclusive: true, held, relies },
        end: endOrRelease,
      })
    },
  })
}

const NOT_HELD = { codes: ['LEASE_NOT_HELD'] }

function takeAll({ world, life }: Step, held: HeldAll): void {
  if (!held.held) return
  const release = (): void => {
    const codes = ['LEASE_NOT_HELD', 'LEASE_LOST']
    void world.call(life, `release() of ${held.leases.join()} of ${held.holder}`, () => held.release(), { codes })
  }
  // The others stay held after a loss, until the release.
  held.signal.addEventListener('abort', () => world.laterIn(life, 100, release), { once: true })
  for (const hold of held.holds) {
    const { lease, fencingToken } = hold
    world.take(life, {
      recipe: 'holdAll',
      resource: lease,
      lease,
      fencingToken,
      isExclusive: true,
      held: hold,
      relies: () => held.held,
      end: release,
    })
  }
}

/** What the works of one key have returned, and how long the latest result is kept. */
interface Kept {
  readonly results: Set<string>
  untilMs: number
  forgottenMs: number
}
const kept = new WeakMap<World, Map<string, Kept>>()

function keptOf(world: World, key: string): Kept {
  let keys = kept.get(world)
  if (keys === undefined) kept.set(world, (keys = new Map()))
  let one = keys.get(key)
  if (one === undefined) keys.set(key, (one = { results: new Set(), untilMs: -1, forgottenMs: -1 }))
  return one
}

/** How long after its call a request may be executed at most. */
const LATEST_MS = 60_000

function once(step: Step): void {
  const { world, random, life, calls } = step
  const key = random.pick(['K', 'N'])
  const lease = `once/${key}`
  const marks = keptOf(world, key)
  const wait = random.pick(WAITS)
  const signal = calls.signal(step, wait === true ? 0.7 : 0.3)
  let workedMs: number | undefined
  const isLarge = random.chance(0.2)
  const run = (): Promise<string> =>
    life.once.run(
      key,
      async ({ signal, fencingToken }) => {
        if (world.nowMs < marks.untilMs && world.nowMs > marks.forgottenMs + LATEST_MS)
          world.problem(
            '4 once',
            `the work of ${key} begins again, though its result is kept until ${Math.round(marks.untilMs)}`,
          )
        const parts = { recipe: 'once', resource: lease, lease, fencingToken, isExclusive: true, isBySignal: true }
        const short = await work(step, { ...parts, signal, relies: () => !signal.aborted })
        const result = isLarge ? short.padEnd(2 * MAX_VALUE_BYTES, '.') : short
        marks.results.add(result)
        workedMs = world.nowMs
        return result
      },
      { wait, signal },
    )
  void world.call(life, `once(${key}, ${wait})`, run, {
    codes: ['LEASE_CLAIM_DENIED', 'LEASE_LOST'],
    signal,
    expects: isFailed,
    done: (result) => {
      if (!marks.results.has(result))
        world.problem('5 result', `${key} is ${result.slice(0, 20)}, which no work has returned`)
      // By the clock of the store, and of processes that differ by less than a thousandth from it.
      if (workedMs !== undefined) marks.untilMs = Math.max(marks.untilMs, workedMs + KEEP_RESULT_MS * 0.999)
    },
  })
}

function forget(step: Step): void {
  const { world, random, life } = step
  const key = random.pick(['K', 'N'])
  const marks = keptOf(world, key)
  marks.forgottenMs = Number.POSITIVE_INFINITY
  const over = (): void => void (marks.forgottenMs = world.nowMs)
  void world.call(life, `forget(${key})`, () => life.once.forget(key).finally(over))
}

const begun = new WeakMap<World, Map<string, number>>()
const SLOT_MS = 4_000

function oncePer(step: Step): void {
  const { world, random, life, calls } = step
  const slot = `s${String(Math.floor(world.nowMs / SLOT_MS) - random.pick([0, 0, 1])).padStart(6, '0')}`
  const signal = calls.signal(step, 0.3)
  let slots = begun.get(world)
  if (slots === undefined) begun.set(world, (slots = new Map()))
  const renew = random.chance(0.8)
  const begin = (): void => {
    const times = (slots.get(slot) ?? 0) + 1
    slots.set(slot, times)
    if (times > 1) world.problem('4 slot', `slot ${slot} runs for the ${times}. time`)
  }
  const options = { codes: ['LEASE_LOST'], signal, expects: isFailed }
  const [resource, isExclusive] = ['jobs/J', true]
  if (random.chance(0.3)) {
    void world.call(life, `begin(J, ${slot})`, () => life.oncePer.begin('J', slot, { renew, signal }), {
      ...options,
      done: (outcome) => {
        if (!outcome.ran) return
        begin()
        takeHeld(step, { recipe: 'oncePer', resource, held: outcome.run, isExclusive })
      },
    })
    return
  }
  const run = (): Promise<unknown> =>
    life.oncePer.run(
      'J',
      slot,
      ({ signal, fencingToken, run: held }) => {
        begin()
        const parts = { recipe: 'oncePer', resource, lease: resource, fencingToken, isExclusive, held, signal }
        return work(step, { ...parts, relies: () => held.held })
      },
      { renew, signal },
    )
  void world.call(life, `run(J, ${slot})`, run, options)
}

/** Slots of a job that are run again if their run did not end. */
interface Retried {
  /** When it was known that the slot is done. */
  readonly doneMs: Map<string, number>
  readonly asked: Set<string>
  forgottenMs: number
}
const retried = new WeakMap<World, Retried>()

function retriedOf(world: World): Retried {
  let one = retried.get(world)
  if (one === undefined) retried.set(world, (one = { doneMs: new Map(), asked: new Set(), forgottenMs: -LATEST_MS }))
  return one
}

function retry(step: Step): void {
  const { world, random, life, calls } = step
  const slots = retriedOf(world)
  const slot = `s${String(Math.floor(world.nowMs / SLOT_MS) - random.pick([0, 0, 1])).padStart(6, '0')}`
  slots.asked.add(slot)
  const options = { retry: true, renew: random.chance(0.7), signal: calls.signal(step, 0.5) }
  void world.call(life, `begin(R, ${slot})`, () => life.oncePer.begin('R', slot, options), {
    signal: options.signal,
    done: (outcome, fromMs) => {
      if (!outcome.ran) return
      if (fromMs > (slots.doneMs.get(slot) ?? Number.POSITIVE_INFINITY))
        world.problem('4 slot', `slot ${slot} runs again, which was done`)
      const released = (releasedMs: number): void => {
        if (releasedMs > slots.forgottenMs + LATEST_MS) slots.doneMs.set(slot, world.nowMs)
      }
      takeHeld(step, { recipe: 'oncePer', resource: 'jobs/R', held: outcome.run, isExclusive: true, released })
    },
  })
}

/** The last slot is one that somebody has asked for. */
function last({ world, life }: Step): void {
  void world.call(life, 'last(R)', () => life.oncePer.last('R'), {
    done: (run) => {
      if (run !== undefined && !retriedOf(world).asked.has(run.slot))
        world.problem('5 answers', `the last slot is ${run.slot}, for which nobody has asked`)
    },
  })
}

function forgetSlots({ world, life }: Step): void {
  const slots = retriedOf(world)
  const over = (): void => {
    slots.forgottenMs = world.nowMs
    slots.doneMs.clear()
  }
  slots.forgottenMs = Number.POSITIVE_INFINITY
  slots.doneMs.clear()
  void world.call(life, 'forget(R)', () => life.oncePer.forget('R').finally(over))
}

// ── guarded writes ──────────────────────────────────────────────────────────────────────────────────────────────

const admitted = new WeakMap<World, Map<string, bigint>>()

/** A write that the gate, or the store itself, lets in. */
export function write({ world, random, life }: Step): void {
  const thing = random.maybe(life.things.filter(({ held }) => held !== undefined))
  if (thing?.held === undefined) return
  const { held, lease, fencingToken, isExclusive } = thing
  if (random.chance(0.5)) {
    let tokens = admitted.get(world)
    if (tokens === undefined) admitted.set(world, (tokens = new Map()))
    const before = tokens
    const isShare = countedOf(lease) !== undefined
    void world.call(life, `admit(${lease}, term ${fencingToken})`, () => life.gate.admit(lease, held), {
      // A share beside others has no order among them: the gate refuses it.
      codes: ['LEASE_LOST', ...(isExclusive ? [] : ['LEASE_NOT_VALID']), ...(isShare ? ['LEASE_NOT_HELD'] : [])],
      expects: (error) => error instanceof ErrFenced,
      done: (_, fromMs) => {
        const name = countedOf(lease)
        const isWhole = ({ capacity, shares }: CountedEntry): boolean => {
          const isAlone = [...shares].every(([share, { heldUntilMs }]) => share === lease || heldUntilMs < world.nowMs)
          return isAlone && shares.get(lease)?.weight === capacity
        }
        if (!isExclusive && name !== undefined && !world.counted.wasTrue(name, fromMs, world.nowMs, isWhole))
          world.problem('3 gate', `${lease} was let in, which excludes nobody`)
        const latest = before.get(lease) ?? -1n
        if (fencingToken < latest)
          world.problem('3 gate', `term ${fencingToken} of ${lease} was let in after ${latest}`)
        else before.set(lease, fencingToken)
      },
    })
    return
  }
  const guard = new MemoryGuard(() => {
    const term = world.history.standing(lease)
    if (term?.fencingToken !== fencingToken && !world.settings.clockless)
      world.problem('3 guarded', `a write for term ${fencingToken} of ${lease} passed in term ${term?.fencingToken}`)
  })
  const codes = ['LEASE_NOT_HELD', 'LEASE_LOST', 'LEASE_TRAPDOOR']
  void world.call(life, `check(${lease}, term ${fencingToken})`, () => held.token.check(guard), { codes })
}

export const FENCED_ACTS: readonly (readonly [number, Act])[] = [
  [8, acquire],
  [1, list],
  [1, stopLocks],
]

export const FENCED_OPERATOR_ACTS: readonly (readonly [number, Act])[] = [[1, forceRelease]]

export const WORK_ACTS: readonly (readonly [number, Act])[] = [
  [7, underLease],
  [7, all],
  [3, lapse],
  [6, once],
  [8, oncePer],
  [4, retry],
  [1, last],
]

export const WORK_OPERATOR_ACTS: readonly (readonly [number, Act])[] = [
  [1, forget],
  [1, forgetSlots],
]

/** Whether a fail-closed lock has outlived the process that had it, or its recipe. */
export function isAbandoned(lives: readonly Life[]): boolean {
  return !lives.some(({ things }) => things.some(({ resource, held }) => resource === 'locks:F' && held?.held === true))
}
