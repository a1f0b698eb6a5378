/** Healthy processes that all want the same things: nobody waits too long, nobody is overtaken again and again, and somebody leads. */
import { countedName, type Held } from 'lease-core'
import { Random } from 'lease-simulation'
import { holdAll } from '#src/hold-all.ts'
import { campaign, listen } from './leaders.ts'
import { THROTTLED, TTL_MS, type Life } from './life.ts'
import { afterTurns, GivenUp, takeHeld, type Calls } from './step.ts'
import type { World } from './world.ts'

/** What there is room for, and how it is asked for. */
interface Wanted {
  readonly resource: string
  /** How many may have it at once. */
  readonly n: number
  readonly isExclusive?: boolean
  readonly hold: (life: Life, holder: string, signal: AbortSignal | undefined) => Promise<Held | undefined>
}

const WANTED: Readonly<Record<'semaphores' | 'locks' | 'works', readonly Wanted[]>> = {
  semaphores: [
    {
      resource: 'semaphores/S',
      n: 4,
      hold: ({ semaphores }, holder, signal) => semaphores.post('S', holder, 30_000, { signal }),
    },
    {
      resource: 'semaphores/T',
      n: 4,
      hold: ({ semaphores }, holder, signal) => {
        // Every third wants all permits.
        const permits = Number(holder.split('-')[2]) % 3 === 0 ? 4 : 1
        return semaphores.post('T', holder, 30_000, { permits, signal, keepAlive: true })
      },
    },
    {
      resource: 'throttles/Q',
      n: THROTTLED,
      hold: ({ throttle }, _, signal) => throttle.start({ signal }).then(() => undefined),
    },
  ],
  locks: [
    { resource: 'rwlocks/L', n: 2, hold: ({ locks: [lock] }, holder, signal) => modeOf(lock as never, holder, signal) },
    {
      resource: 'rwlocks/M',
      n: 2,
      hold: ({ locks: [, lock] }, holder, signal) => modeOf(lock as never, holder, signal),
    },
    {
      resource: 'locks:F',
      n: 1,
      isExclusive: true,
      hold: ({ failOpen, failClosed }, holder, signal) => {
        const locks = [...failOpen, failClosed][Number(holder.split('-')[2]) % 3] as Life['failClosed']
        return locks.acquire('F', { signal })
      },
    },
  ],
  works: [
    {
      resource: 'X',
      n: 1,
      isExclusive: true,
      hold: ({ manager, clock }, holder, signal) =>
        holdAll(manager, ['Y', 'X'], holder, { duration: 30_000, wait: true, signal, clock }),
    },
  ],
}

function modeOf(lock: Life['locks'][number], holder: string, signal: AbortSignal | undefined): Promise<Held> {
  return Number(holder.split('-')[2]) % 3 === 0 ? lock.wlock(holder, { signal }) : lock.rlock(holder, { signal })
}

interface Turn {
  readonly worker: string
  readonly askedMs: number
  readonly fencingToken: bigint
}

const ROUNDS = 3
const WORKERS = 3
/** A call is in the queue of the store after this time, on a sound network. */
const QUEUED_MS = 1_500
/** Where there is room for the first in the queue, it comes within this time. */
const ROOM_MS = 8_000

export async function crowd(world: World, calls: Calls, pass: () => Promise<void>): Promise<void> {
  const { settings } = world
  world.note(undefined, 'a crowd comes')
  const wanted = (['semaphores', 'locks', 'works'] as const).flatMap((kind) => (settings[kind] ? WANTED[kind] : []))
  const turns = new Map<Wanted, Turn[]>(wanted.map((one) => [one, []]))
  let working = 0
  const isOver = (): boolean => world.problems.length > 0
  for (const one of wanted) {
    for (const life of world.lives) {
      for (let index = 0; index < WORKERS; index++) {
        working++
        const worker = `c-${life.name}-${index}`
        const random = new Random(Math.imul(settings.seed, 31) ^ Math.imul(working, 0x27d4_eb2d))
        void work(world, calls, { one, life, worker, random, turns: turns.get(one) as Turn[] }).then(() => working--)
      }
    }
  }
  const leading = settings.leaders ? new Leading(world, calls) : undefined
  const boundMs = 20_000 + (settings.blind ? 2 * settings.maxSleepMs : 0)
  let served = 0
  let servedMs = world.nowMs
  const untilMs = world.nowMs + (settings.leaders ? 40_000 : 0)
  // oxlint-disable-next-line no-unmodified-loop-condition -- each worker changes it when it is done
  while (!isOver() && (working > 0 || world.nowMs < untilMs)) {
    await pass()
    leading?.look()
    for (const { resource } of wanted) checkRoom(world, resource)
    const sum = [...turns.values()].reduce((total, { length }) => total + length, 0)
    if (sum - working !== served) {
      served = sum - working
      servedMs = world.nowMs
    }
    if (working > 0 && world.nowMs - servedMs > boundMs) {
      const waiting = [...world.pending].filter(({ what }) => what.startsWith('crowd')).map(({ what }) => what)
      world.problem('6 waits', `nobody was served for ${boundMs} ms: ${waiting.join('; ')}`)
    }
  }
  if (!isOver()) for (const [one, list] of turns) judgeFairness(world, one, list)
}

function checkRoom(world: World, resource: string): void {
  const waitedMs = world.counted.lookAtFirst(countedName(resource))
  const { blind, maxSleepMs } = world.settings
  if (waitedMs <= ROOM_MS + (blind ? maxSleepMs : 0)) return
  world.problem(
    '6 room',
    `there has been room for the first in the queue of ${resource} for ${Math.round(waitedMs)} ms`,
  )
}

interface Worker {
  readonly one: Wanted
  readonly life: Life
  readonly worker: string
  readonly random: Random
  readonly turns: Turn[]
}

async function work(world: World, calls: Calls, { one, life, worker, random, turns }: Worker): Promise<void> {
  const { resource, hold, isExclusive = false } = one
  for (let round = 0; round < ROUNDS && world.problems.length === 0; round++) {
    const askedMs = world.nowMs
    const holder = `${worker}-${resource === 'X' ? calls.serial() : round}`
    let signal: AbortSignal | undefined
    if (random.chance(0.25)) {
      const controller = new AbortController()
      signal = controller.signal
      calls.given.push({ life, controller })
      const abort = (): void => controller.abort(new GivenUp('of the crowd'))
      const turns = random.int(40)
      if (random.chance(0.5)) life.onGranted.push(() => void afterTurns(turns, abort))
      else world.laterIn(life, random.int(random.pick([10, 400, 3_000])), abort)
    }
    await world.call(life, `crowd: ${holder} wants ${resource}`, () => hold(life, holder, signal), {
      signal,
      codes: ['LEASE_LOST'],
      done: (held) => {
        if (held === undefined) world.started(askedMs)
        // A start has no token to compare.
        turns.push({ worker, askedMs, fencingToken: held?.fencingToken ?? -1n })
        if (held?.held === true)
          takeHeld({ world, life }, { recipe: 'crowd', resource: `crowd ${resource}`, held, isExclusive })
      },
    })
  }
}

/** None who waited was overtaken by one and the same more often than there is room. */
function judgeFairness(world: World, { resource, n }: Wanted, turns: readonly Turn[]): void {
  const { blind } = world.settings
  for (const { worker, askedMs, fencingToken } of turns) {
    if (blind && worker.startsWith('c-1-')) continue // it hears nothing, and is passed over
    const times = new Map<string, number>()
    for (const other of turns) {
      if (
        fencingToken < 0n ||
        other.worker === worker ||
        other.fencingToken > fencingToken ||
        other.askedMs <= askedMs + QUEUED_MS
      )
        continue
      times.set(other.worker, (times.get(other.worker) ?? 0) + 1)
    }
    const most = Math.max(0, ...times.values())
    if (most > n)
      world.problem('6 fairness', `${worker}, which waited for ${resource}, was overtaken ${most} times by one`)
  }
}

/** Of each kind somebody leads, and another when that one gives way. */
class Leading {
  readonly #world: World
  readonly #calls: Calls
  readonly #random: Random
  readonly #sinceMs = new Map<string, number>()

  constructor(world: World, calls: Calls) {
    this.#world = world
    this.#calls = calls
    this.#random = new Random(world.settings.seed ^ 0x1ead_e125)
  }

  look(): void {
    const world = this.#world
    const random = this.#random
    for (const life of world.lives) {
      if (!world.runs(life)) continue
      listen(world, life)
      const { authority, node, watcher } = life
      if (!watcher.started) void world.call(life, 'start() of the watcher', () => watcher.start())
      if (!authority.standing) void world.call(life, 'ready()', () => authority.ready())
      else if (authority.held && random.chance(0.2)) {
        void world.call(life, 'heartbeat()', () => authority.heartbeat(), { codes: ['LEASE_LOST'] })
      }
      if (!node.started)
        void world.call(life, 'start()', () => node.start(), {
          expects: (error) => (error as { readonly code?: string }).code === 'LEASE_STOPPED',
        })
      campaign({ world, life, random, calls: this.#calls })
    }
    const { lives } = world
    for (const { name, watcher } of lives) {
      const { term } = world.history.latest('path')
      this.#judge(`path as the watcher of p${name} has it`, watcher.leader?.fencingToken === term?.fencingToken)
    }
    this.#judge(
      'authority',
      lives.some(({ authority }) => authority.held),
    )
    this.#judge(
      'path',
      lives.some(({ node }) => node.isSelected()),
    )
    this.#judge(
      'lead',
      lives.some(({ candidate }) => candidate?.isLeader === true || candidate?.isWorking === true),
    )
  }

  #judge(what: string, isLed: boolean): void {
    const { nowMs } = this.#world
    if (isLed || !this.#sinceMs.has(what)) this.#sinceMs.set(what, nowMs)
    const withoutMs = nowMs - (this.#sinceMs.get(what) ?? nowMs)
    const { maxSleepMs } = this.#world.settings
    if (withoutMs > 2 * TTL_MS + 5_000 + maxSleepMs)
      this.#world.problem('6 leader', `nobody has led ${what} for ${Math.round(withoutMs)} ms`)
  }
}
