/** One step of a run, and what the acts of all recipes share. */
import type { Held } from 'lease-core'
import type { Failure, Random } from 'lease-simulation'
import type { Life, Thing } from './life.ts'
import type { World } from './world.ts'

/** Why a call of a run is given up. */
export class GivenUp extends Error {
  override readonly name = 'GivenUp'
}

/** What a work of a run throws. */
export class WorkFailed extends Error {
  override readonly name = 'WorkFailed'
}

export interface Step {
  readonly world: World
  readonly random: Random
  readonly life: Life
  readonly calls: Calls
}

export type Act = (step: Step) => void

/** Somebody who may give calls up. */
interface Aborting {
  readonly life: Life
  readonly controller: AbortController
}

/** Calls that may be given up, and names that are used once. */
export class Calls {
  readonly aborting: Aborting[] = []
  /** All signals that calls were given. */
  readonly given: Aborting[] = []
  /** By process: the one of many calls, which aborts at the end. */
  readonly #shared = new WeakMap<Life, AbortSignal>()
  #serial = 0

  serial(): number {
    return this.#serial++
  }

  /**
   * A signal for one call, or none. It aborts in some later step, within a few microtasks of the call, or within a few of the next grant of
   * this process.
   */
  signal({ world, random, life }: Step, chance: number = 0.5): AbortSignal | undefined {
    if (!random.chance(chance)) return undefined
    if (random.chance(0.15)) return this.#sharedSignal(life)
    const controller = new AbortController()
    const given = { life, controller }
    this.given.push(given)
    const turns = random.int(random.pick([4, 12, 60]))
    const abort = (): void =>
      void afterTurns(turns, () => {
        if (world.runs(life)) controller.abort(new GivenUp(`after ${turns} turns`))
      })
    const way = random.int(4)
    if (way === 0) abort()
    else if (way === 1) life.onGranted.push(abort)
    else this.aborting.push(given)
    return controller.signal
  }

  #sharedSignal(life: Life): AbortSignal {
    const before = this.#shared.get(life)
    if (before !== undefined) return before
    const controller = new AbortController()
    const { signal } = controller
    this.given.push({ life, controller })
    this.#shared.set(life, signal)
    return signal
  }

  /** Gives one up. */
  abort({ world, random }: Pick<Step, 'world' | 'random'>): void {
    const aborting = random.maybe(this.aborting)
    if (aborting === undefined || !world.runs(aborting.life)) return
    this.aborting.splice(this.aborting.indexOf(aborting), 1)
    world.note(aborting.life, 'abort')
    aborting.controller.abort(new GivenUp('give up'))
  }

  abortAll(): void {
    for (const { life, controller } of this.given) if (!life.isOver) controller.abort(new GivenUp('the end'))
  }
}

export async function afterTurns(turns: number, then: () => void): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await Promise.resolve()
  then()
}

export const DURATIONS = [400, 900, 2_000, 5_000, 5_000, 15_000] as const
export const WAITS = [false, false, true, true, true, 500, 4_000] as const

/** Names of holders of one recipe. */
export function holderOf({ world, random, life, calls }: Step): string {
  if (random.chance(0.3)) return `u${calls.serial()}`
  return world.settings.same && random.chance(0.5) ? `h${random.int(2)}` : `p${life.name}-${random.int(3)}`
}

export interface Taken {
  readonly recipe: string
  readonly resource: string
  readonly held: Held
  readonly isExclusive: boolean
  readonly source?: object | undefined
  /** What the recipe says. @default what the grant says of itself */
  readonly isPresent?: () => boolean
  /** Its release has resolved, which was asked for then, while it was held. */
  readonly released?: (fromMs: number) => void
}

/** The process has this in its hands from now on, until it is over. */
export function takeHeld(
  { world, life }: Pick<Step, 'world' | 'life'>,
  { recipe, resource, held, isExclusive, source, isPresent = () => held.held, released }: Taken,
): void {
  const { fencingToken, token } = held
  const { lease } = token
  const thing: Thing = {
    recipe,
    resource,
    lease,
    fencingToken,
    isExclusive,
    held,
    source,
    relies: isPresent,
    end: () => {
      thing.isAsked = true
      const what = `release() of ${recipe} ${resource}, term ${fencingToken}`
      const wasHeld = held.held
      void world.call(life, what, () => held.release(), {
        codes: ['LEASE_NOT_HELD'],
        done: (_, fromMs) => {
          if (wasHeld) released?.(fromMs)
        },
      })
    },
  }
  world.take(life, thing)
}

export interface Working extends Pick<
  Thing,
  'recipe' | 'resource' | 'lease' | 'fencingToken' | 'isExclusive' | 'isBySignal' | 'held'
> {
  readonly signal: AbortSignal
  readonly relies: () => boolean
}

/** A work that ends after a while, when it is asked to, or later than that; it may fail. Resolves with a result of its own. */
export function work(step: Step, { signal, relies, ...parts }: Working, mayFail: boolean = true): Promise<string> {
  const { world, random, life, calls } = step
  const result = `r${calls.serial()}`
  const [fails, lateMs, longMs] = [
    mayFail && random.chance(0.15),
    random.chance(0.6) ? 0 : random.int(2_500),
    random.pick([0, 5, 200, 4_000, 20_000]) * random.next(),
  ]
  return new Promise((resolve, reject) => {
    let isOver = false
    const end = (): void => {
      if (isOver) return
      isOver = true
      if (fails) reject(new WorkFailed(result))
      else resolve(result)
    }
    const told = (): void => {
      if (lateMs === 0) end()
      else world.laterIn(life, lateMs, end)
    }
    if (signal.aborted) told()
    else signal.addEventListener('abort', told, { once: true })
    world.laterIn(life, longMs, end)
    world.take(life, { ...parts, relies: () => !isOver && relies(), end })
  })
}

/** A refusal of a lease names who has it. */
export function judgeDenied(
  step: Step,
  lease: string,
  error: Failure & { readonly currentHolder?: string },
  fromMs: number,
): void {
  const { world } = step
  const { currentHolder } = error
  if (error.code !== 'LEASE_CLAIM_DENIED' || currentHolder === undefined) return
  if (world.history.wasTrue(lease, fromMs, world.nowMs, (term) => term?.holder === currentHolder)) return
  world.problem(
    '5 denied',
    `${lease} was denied for ${currentHolder} had it, asked at ${Math.round(fromMs)}: that was never so`,
  )
}
