/** What may happen in one step: a call of the public API, a fault, or time that passes. */
import { MemoryGuard } from '#src/memory/index.ts'
import type { Hold, Info, Token } from '#src/index.ts'
import type { Manager } from '#src/manager.ts'
import { countedName, countedOf, shareName } from '#src/share.ts'
import { isFullFor, strike, Weighted, type CountedEntry, type Random, type StoredTerm } from 'lease-simulation'
import type { HeldHere, Life } from './life.ts'
import type { Simulation } from './simulation.ts'

/** Why a call of a run is given up. */
export class GivenUp extends Error {
  override readonly name = 'GivenUp'
}

/** Somebody who may abort calls, and how many listen. */
export interface Aborting {
  readonly life: Life
  readonly controller: AbortController
}

/** One step of one process. */
export interface Step {
  readonly sim: Simulation
  readonly random: Random
  readonly life: Life
  readonly lease: string
  readonly steps: Steps
}

type Act = (step: Step) => void | Promise<void>

export class Steps {
  readonly #sim: Simulation
  readonly #acts: Weighted<Act>
  readonly aborting: Aborting[] = []
  #serial = 0
  /** Calls of `hold` that wait, in order, by manager and lease. */
  readonly #waiting = new Map<Manager, Map<string, object[]>>()

  constructor(sim: Simulation) {
    this.#sim = sim
    const { settings } = sim
    const when = (condition: boolean, weight: number): number => (condition ? weight : 0)
    this.#acts = new Weighted<Act>([
      [14, hold],
      [5, holdAny],
      [7, claim],
      [12, releaseHold],
      [3, renew],
      [3, update],
      [4, releaseByName],
      [when(settings.revokes, 3), revoke],
      [6, checkByName],
      [5, checkOwn],
      [3, waitUntilExpired],
      [4, observe],
      [4, abort],
      [when(settings.pins, 2), pin],
      [when(settings.pins, 3), unpin],
      [when(settings.pins, 1), pinned],
      [3, find],
      [2, leases],
      [8, strike],
      [when(settings.counted, 24), holdShare],
      [when(settings.counted, 3), define],
      [when(settings.counted, 2), counted],
      [when(settings.restarts, 1), restart],
      [16, advance],
    ])
  }

  async take(index: number, random: Random): Promise<void> {
    const sim = this.#sim
    const running = sim.lives.filter((life) => sim.runs(life))
    const life = random.maybe(running)
    const act = this.#acts.pick(random)
    let lease = random.pick(sim.settings.leases)
    if (sim.settings.counted && OF_ANY.has(act) && random.chance(0.5)) {
      lease = random.maybe([...sim.counted.shares]) ?? lease
    }
    if (sim.settings.counted && act === strike && random.chance(0.3))
      lease = `${random.pick(sim.settings.countedNames)}#`
    if (life === undefined) await sim.time.advance(50)
    else await act({ sim, random, life, lease, steps: this })
    if (random.chance(0.4)) await sim.time.settle()
    else if (random.chance(0.3)) await sim.time.advance(random.int(20))
    if (!sim.settings.rare || index % 16 === 0) sim.lookAtAll()
  }

  /** A signal for one call, or none. */
  signal({ life, random }: Step, chance: number = 0.5): AbortSignal | undefined {
    if (!random.chance(chance)) return undefined
    const controller = new AbortController()
    this.aborting.push({ life, controller })
    return controller.signal
  }

  holder({ sim, random, life }: Step): string {
    const { unique, same } = sim.settings
    if (unique && random.chance(0.8)) return `u${this.#serial++}`
    return same ? `h${random.int(2)}` : `p${life.name}-${random.int(2)}`
  }

  serial(): number {
    return this.#serial++
  }

  lineOf(manager: Manager, lease: string): object[] {
    let lines = this.#waiting.get(manager)
    if (lines === undefined) this.#waiting.set(manager, (lines = new Map()))
    let line = lines.get(lease)
    if (line === undefined) lines.set(lease, (line = []))
    return line
  }
}

// ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────

const DURATIONS = [400, 900, 2_000, 5_000, 5_000, 10_000, 30_000, 30_000] as const

function hold(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const manager = random.pick(life.managers)
  const holder = steps.holder(step)
  const duration = random.pick(DURATIONS)
  const wait = random.pick([false, false, true, true, 500, 4_000])
  const signal = steps.signal(step, wait === true ? 0.9 : 0.3)
  const shared = sim.settings.shares && random.chance(0.6)
  const options = {
    duration,
    wait,
    signal,
    shared,
    announce: random.chance(0.3),
    ...(random.chance(0.3) ? { renewEvery: random.pick([false, Math.ceil(duration / 2)] as const) } : {}),
  }
  const line = wait === false ? undefined : steps.lineOf(manager, lease)
  const { signal: _, ...shown } = options
  sim.call(
    life,
    `hold(${lease}, ${holder}, ${JSON.stringify(shown)})`,
    () => asked(step, [lease], holder, inLine(step, line, manager.hold(lease, holder, options))),
    {
      codes: ['LEASE_CLAIM_DENIED'],
      signal,
      done: (granted, fromMs) => {
        take(step, manager, granted, holder, { duration, shared, fromMs })
      },
      failed: (error, fromMs) => denied(step, [lease], holder, error, fromMs),
    },
  )
}

/** Tells the simulation how long it is wanted. */
async function asked<T>({ sim, life }: Step, leases: readonly string[], holder: string, work: Promise<T>): Promise<T> {
  const over = sim.claiming(life, leases, holder)
  try {
    const value = await work
    over('over')
    return value
  } catch (error) {
    over((error as { readonly code?: string }).code === 'LEASE_CLAIM_DENIED' ? 'denied' : 'over')
    throw error
  }
}

/** Of those who wait for one lease in one manager the first is served first, except for those who join a term that stands. */
async function inLine({ sim }: Step, line: object[] | undefined, holding: Promise<Hold>): Promise<Hold> {
  const place = {}
  const fromMs = sim.nowMs
  line?.push(place)
  try {
    const { lease, fencingToken } = await holding
    const term = sim.history.term(lease, fencingToken)
    const isNew = term !== undefined && term.openedMs >= fromMs && term.acknowledged.length === 0
    if (line !== undefined && line[0] !== place && isNew && sim.settings.strict)
      sim.problem('6 order', `a waiter for ${lease} was served before an earlier one`)
    return await holding
  } finally {
    line?.splice(line.indexOf(place), 1)
  }
}

function holdAny(step: Step): void {
  const { sim, random, life, steps } = step
  const manager = random.pick(life.managers)
  const holder = steps.holder(step)
  const duration = random.pick(DURATIONS)
  const leases = random.chance(0.5) ? [...sim.settings.leases] : sim.settings.leases.slice(0, 2).toReversed()
  const wait = random.pick([false, true, 3_000])
  const signal = steps.signal(step, wait === true ? 0.9 : 0.3)
  sim.call(
    life,
    `holdAny(${leases.join()}, ${holder}, ${duration}, ${wait})`,
    () => asked(step, leases, holder, manager.holdAny(leases, holder, { duration, wait, signal })),
    {
      codes: ['LEASE_CLAIM_DENIED'],
      signal,
      done: (granted, fromMs) => take(step, manager, granted, holder, { duration, shared: false, fromMs }),
      failed: (error, fromMs) => denied(step, leases, holder, error, fromMs),
    },
  )
}

function take(
  { sim, life, random }: Step,
  manager: Manager,
  hold: Hold,
  holder: string,
  { duration, shared, fromMs }: { readonly duration: number; readonly shared: boolean; readonly fromMs: number },
): void {
  const { lease, fencingToken } = hold
  const { token } = hold
  const twin = life.holds.find((one) => one.lease === lease && one.fencingToken === fencingToken && one.hold.held)
  if (twin !== undefined && !(twin.shared && shared))
    sim.problem('2 shared', `p${life.name} holds ${lease}, term ${fencingToken}, twice`)
  life.holds.push({ hold, token, manager, lease, holder, fencingToken, shared, deadMs: undefined })
  sim.acknowledge(life, lease, holder, fencingToken, duration, fromMs)
  if (random.chance(0.5)) void hold.signal // some are listened to from the beginning
}

function claim(step: Step): void {
  const manager = step.random.pick(step.life.managers)
  claimFor(step, manager, step.lease, step.steps.holder(step))
}

function claimFor(step: Step, manager: Manager, lease: string, holder: string): void {
  const { sim, random, life, steps } = step
  const duration = random.pick(DURATIONS)
  const signal = steps.signal(step, 0.3)
  sim.call(
    life,
    `claim(${lease}, ${holder}, ${duration})`,
    () => asked(step, [lease], holder, manager.claim(lease, holder, duration, { signal })),
    {
      codes: ['LEASE_CLAIM_DENIED'],
      signal,
      done: (token, fromMs) => {
        if (token.fencingToken === undefined)
          return sim.problem('5 answers', `a claim of ${lease} was granted without a term`)
        life.tokens.push(token)
        if (life.tokens.length > 8) life.tokens.shift()
        if (token.fencingToken >= 0n) sim.acknowledge(life, lease, holder, token.fencingToken, duration, fromMs)
      },
      failed: (error, fromMs) => denied(step, [lease], holder, error, fromMs),
    },
  )
}

/** Another had each of them, or this process had one for the same holder. */
function denied(
  { sim, life }: Step,
  leases: readonly string[],
  holder: string,
  { currentHolder, lease: named }: { readonly currentHolder?: string; readonly lease?: string | undefined },
  fromMs: number,
): void {
  // It believes that it has one, or did since it was asked.
  const isOwn = (one: HeldHere): boolean => one.holder === holder && leases.includes(one.lease)
  if (life.holds.some(isOwn)) return
  if (currentHolder === holder) {
    if (life.dead.some((one) => isOwn(one) && (one.seenDeadMs ?? 0) >= fromMs)) return
    if (leases.some((lease) => sim.isAsking(life, lease, holder, fromMs))) return
  }
  if (leases.some((lease) => sim.isEnding(life, lease, holder, fromMs))) return
  if (leases.some((lease) => sim.history.wasTrue(lease, fromMs, sim.nowMs, (term) => term?.holder === holder))) return
  const lease = named ?? leases[0]
  if (currentHolder !== undefined && lease !== undefined) {
    sim.mustHaveBeen(
      lease,
      fromMs,
      `${holder} was denied ${lease} for ${currentHolder} has it`,
      (term) => term?.holder === currentHolder,
      '5 denied',
    )
  }
}

// ── shares ──────────────────────────────────────────────────────────────────────────────────────────────────────

function holdShare(step: Step): void {
  const { sim, random, life, steps } = step
  const manager = random.pick(life.managers)
  const name = random.pick(sim.settings.countedNames)
  const holder = steps.holder(step)
  const duration = random.pick(DURATIONS)
  const wait = random.pick([false, false, true, true, 500, 4_000])
  const signal = steps.signal(step, wait === true ? 0.9 : 0.3)
  const shared = sim.settings.shares && random.chance(0.6)
  const known = sim.counted.latest(countedName(name)).capacity ?? 2
  const capacity = random.pick([undefined, known, known, known, 2])
  const weight = Math.min(random.pick([1, 1, 1, 2, 3]), capacity ?? 3)
  const options = {
    duration,
    wait,
    signal,
    shared,
    share: {
      weight,
      ...(capacity === undefined ? {} : { capacity }),
      ...(random.chance(0.15) ? { ahead: true } : {}),
    },
    ...(random.chance(0.15) ? { maxWaiters: random.pick([1, 2, 3]) } : {}),
    ...(random.chance(0.2) ? { renewEvery: random.pick([false, Math.ceil(duration / 2)] as const) } : {}),
  }
  const { signal: _, ...shown } = options
  const share = shareName(name, holder)
  sim.call(
    life,
    `hold(${name}#, ${holder}, ${JSON.stringify(shown)})`,
    () => asked(step, [share], holder, manager.hold(name, holder, options)),
    {
      codes: ['LEASE_CLAIM_DENIED', 'LEASE_INVALID', 'LEASE_NOT_VALID'],
      signal,
      done: (granted, fromMs) => {
        if (granted.lease !== share) sim.problem('5 answers', `${granted.lease} was granted, and not ${share}`)
        take(step, manager, granted, holder, { duration, shared, fromMs })
      },
      failed: (error, fromMs) => {
        if (error.code === undefined) return // it was given up
        const was = (what: string, test: (entry: CountedEntry, atMs: number) => boolean): void => {
          if (sim.counted.wasTrue(countedName(name), fromMs, sim.nowMs, test)) return
          sim.problem(
            '5 shares',
            `${holder} was notified that ${name} ${what}, asked at ${Math.round(fromMs)}: that was never so`,
          )
        }
        if (error.code === 'LEASE_INVALID') {
          if (error.reason === 'not defined') return was('is not defined', (entry) => entry.capacity === undefined)
          return was('has another capacity', (entry) => entry.capacity !== capacity)
        }
        if (error.code === 'LEASE_NOT_VALID') {
          if (error.message?.includes('has already') === true) return
          return was('has too little capacity', (entry) => (entry.capacity ?? 0) < weight)
        }
        if (error.currentHolder === holder) return denied(step, [share], holder, error, fromMs)
        // This process has it for the same holder, as far as it knows.
        if ([...life.holds, ...life.dead].some((one) => one.lease === share && (one.seenDeadMs ?? fromMs) >= fromMs))
          return
        // Others of this process may be ahead whose ticket the store has forgotten.
        const isBehind = [...sim.pending].some((call) => call.life === life && call.what.startsWith(`hold(${name}#,`))
        if (isBehind && wait !== false) return
        was('has no room', isFullFor(weight))
      },
    },
  )
}

function define(step: Step): void {
  const { sim, random, life, steps } = step
  const name = random.pick(sim.settings.countedNames)
  const manager = random.pick(life.managers)
  const capacity = random.pick([undefined, 1, 2, 3, 4])
  const { generation } = sim.counted.latest(countedName(name))
  const from = random.chance(0.8) ? generation : random.pick([undefined, 'of nobody'])
  const signal = steps.signal(step, 0.2)
  const call = sim.counted.defining(life.id, countedName(name))
  const isIt = (seen: string | undefined) => (entry: CountedEntry) => entry.generation === seen
  sim.call(
    life,
    `define(${name}, ${capacity}${from === generation ? '' : ', from another one'})`,
    () => manager.define(name, capacity, { from, signal }),
    {
      codes: ['LEASE_INVALID'],
      signal,
      done: (made, fromMs) => {
        call.isDone = true
        const is = capacity === undefined ? isIt(undefined) : isIt(made)
        if (sim.counted.wasTrue(countedName(name), fromMs, sim.nowMs, is)) return
        sim.problem('5 define', `${name} was defined as ${capacity}, asked at ${Math.round(fromMs)}: that was never so`)
      },
      failed: ({ code }, fromMs) => {
        if (code === undefined) return // it was given up
        if (sim.counted.wasTrue(countedName(name), fromMs, sim.nowMs, (entry) => entry.generation !== from)) return
        sim.problem('5 define', `a definition of ${name} was refused over ${from}, which stood`)
      },
    },
  )
}

function counted(step: Step): void {
  const { sim, random, life } = step
  const name = random.pick(sim.settings.countedNames)
  sim.call(life, `counted(${name})`, () => random.pick(life.managers).counted(name), {
    done: ({ capacity, generation, shares }, fromMs) => {
      const isIt = (entry: CountedEntry): boolean => entry.capacity === capacity && entry.generation === generation
      if (!sim.counted.wasTrue(countedName(name), fromMs, sim.nowMs, isIt))
        sim.problem('5 shares', `${name} was shown with a capacity of ${capacity}: that was never so`)
      for (const [share, info] of shares) {
        sim.mustHaveBeen(share, fromMs, `a reader found ${show(info)} on ${share}`, isShown(sim, info))
        if (
          info.weight !== sim.counted.weight(share) &&
          info.fencingToken === sim.history.latest(share).term?.fencingToken
        )
          sim.problem('5 shares', `${share} was shown with a weight of ${info.weight}`)
      }
    },
  })
}

// ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────

function anyHold({ life, random }: Step): HeldHere | undefined {
  return random.chance(0.25) ? random.maybe(life.dead) : random.maybe(life.holds)
}

function releaseHold(step: Step): void {
  const here = anyHold(step)
  if (here === undefined) return
  const { sim, random, life } = step
  if (!sim.settings.late || !random.chance(0.15) || countedOf(here.lease) !== undefined) return release(step, here)
  // None of its packets arrives in time, and the same holder adopts the term before they do.
  const { lease, holder, manager } = here
  life.faulty.executeLate(random.pick([300, 1_000, 4_000]), { kind: 'release', lease, times: 4 })
  const atMs = 1 + random.int(50)
  release(step, here, () => {
    sim.later(atMs, () => {
      if (sim.runs(life)) claimFor(step, manager, lease, holder)
    })
  })
}

export function release(
  { sim, life }: Pick<Step, 'sim' | 'life'>,
  { hold, lease, holder, fencingToken }: HeldHere,
  atEnd: () => void = () => {},
): void {
  const wasHeld = hold.held
  const isOther = (one: HeldHere): boolean =>
    one.hold !== hold && one.lease === lease && one.fencingToken === fencingToken
  const ended = sim.mayEnd({ life: life.id, lease, fencingToken })
  const over = (): void => {
    ended()
    atEnd()
  }
  sim.call(life, `hold.release() of ${lease}, ${holder}, ${fencingToken}`, () => hold.release().finally(over), {
    codes: ['LEASE_NOT_HELD'],
    done: (_, fromMs) => {
      if (wasHeld) sim.released(life, lease, holder, fromMs)
      // The last one releases, and one that is granted at this moment may be it.
      if (
        !sim.settings.strict ||
        !wasHeld ||
        life.holds.some(isOther) ||
        life.dead.some(isOther) ||
        sim.isAsking(life, lease, holder, fromMs)
      )
        return
      sim.mustHaveBeen(
        lease,
        fromMs,
        `${holder} released ${lease}, term ${fencingToken}`,
        (term) => term?.fencingToken !== fencingToken,
        '5 release',
      )
    },
  })
  if (hold.held) sim.problem('2 ended', `a hold of ${lease} is held after its release`)
}

function releaseByName(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const manager = random.pick(life.managers)
  const here = random.chance(0.5) ? random.maybe(life.holds) : undefined
  const name = here?.lease ?? lease
  const holder = here?.holder ?? steps.holder(step)
  const signal = steps.signal(step, 0.3)
  const over = sim.mayEnd({ life: life.id, lease: name, holder })
  sim.call(life, `release(${name}, ${holder})`, () => manager.release(name, holder, { signal }).finally(over), {
    codes: ['LEASE_NOT_HELD'],
    signal,
    done: (_, fromMs) => {
      sim.released(life, name, holder, fromMs)
      if (sim.settings.same) return // it ended the term of this process; a later one of the same name may stand
      sim.mustHaveBeen(name, fromMs, `${holder} released ${name}`, (term) => term?.holder !== holder)
    },
    failed: ({ reason }, fromMs) => {
      const by = /^held by "(.*)"$/.exec(reason ?? '')?.[1]
      if (by !== undefined) sim.mustHaveBeen(name, fromMs, `${name} was held by ${by}`, (term) => term?.holder === by)
    },
  })
}

function revoke(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const manager = random.pick(life.managers)
  const fencingToken = random.chance(0.4) ? sim.history.latest(lease).term?.fencingToken : undefined
  const signal = steps.signal(step, 0.3)
  const over = sim.mayEnd({ life: life.id, lease, fencingToken, isRevocation: true })
  sim.call(
    life,
    `revoke(${lease}, ${fencingToken})`,
    () => manager.revoke(lease, { signal, fencingToken }).finally(over),
    {
      signal,
      done: (_, fromMs) => {
        sim.mustHaveBeen(lease, fromMs, `${lease} was revoked`, (term) =>
          fencingToken === undefined ? term === undefined : term?.fencingToken !== fencingToken,
        )
      },
    },
  )
}

// ── renewals ────────────────────────────────────────────────────────────────────────────────────────────────────

function renew(step: Step): void {
  const here = anyHold(step)
  if (here === undefined) return
  const { lease, fencingToken, hold } = here
  step.sim.call(step.life, `hold.renew() of ${lease}, ${fencingToken}`, () => hold.renew(), {
    codes: ['LEASE_LOST'],
    done: (_, fromMs) => {
      step.sim.mustHaveBeen(
        lease,
        fromMs,
        `${lease}, term ${fencingToken}, was renewed`,
        (term) => term?.fencingToken === fencingToken,
      )
    },
  })
}

function update(step: Step): void {
  const { sim, life, steps } = step
  const here = anyHold(step)
  if (here === undefined) return
  const { lease, fencingToken, hold } = here
  const value = `v${steps.serial()}`
  const updating = sim.updating(value)
  const isDone = hold.update(value)
  sim.call(
    life,
    `hold.update(${value}) of ${lease}, ${fencingToken}`,
    () =>
      isDone.then(
        () => updating.ended(true),
        (error: unknown) => {
          updating.ended(false)
          throw error
        },
      ),
    {
      codes: ['LEASE_LOST'],
      done: (_, fromMs) => {
        sim.mustHaveBeen(
          lease,
          fromMs,
          `${lease} got the value ${value}`,
          (term, entry) => term?.fencingToken === fencingToken && entry.value === value,
        )
      },
    },
  )
}

// ── questions ───────────────────────────────────────────────────────────────────────────────────────────────────

function checkByName(step: Step): void {
  const { random, life, lease, steps } = step
  const here = random.chance(0.5) ? random.maybe(life.holds) : undefined
  const token = random.pick(life.managers).token(here?.lease ?? lease, here?.holder ?? steps.holder(step))
  check(step, token, undefined)
}

function checkOwn(step: Step): void {
  const { random, life } = step
  const claimed = random.chance(0.3) ? random.maybe(life.tokens) : undefined
  if (claimed !== undefined) return check(step, claimed, claimed.fencingToken)
  const here = anyHold(step)
  if (here !== undefined) check(step, here.token, here.fencingToken)
}

function check({ sim, random, life }: Step, token: Token, fencingToken: bigint | undefined): void {
  const { lease, holder } = token
  const isThis = (term: StoredTerm | undefined): boolean =>
    term?.holder === holder && (fencingToken ?? term.fencingToken) === term.fencingToken
  const key = random.chance(0.4) ? new MemoryGuard(() => sim.guarded(lease, holder, fencingToken)) : undefined
  sim.call(
    life,
    `check(${lease}, ${holder}, ${fencingToken ?? 'any'})${key === undefined ? '' : ' with a guard'}`,
    () => token.check(key),
    {
      codes: ['LEASE_NOT_HELD'],
      done: (info, fromMs) => {
        if (sim.history.wasTrue(lease, fromMs, sim.nowMs, isThis)) return
        const end = sim.history.term(lease, info.fencingToken)?.end
        if (info.holder === holder && end?.by === 'release' && end.isAsked && end.sent?.life !== life.id) return
        sim.problem(
          '5 answers',
          `a check said that ${holder} has ${lease}, term ${info.fencingToken}, asked at ${Math.round(fromMs)}: that was never so`,
        )
      },
      failed: ({ message }, fromMs) => {
        const refused = /with fencing token (\d+)$/.exec(message ?? '')?.[1]
        if (refused !== undefined) {
          return sim.mustHaveBeen(
            lease,
            fromMs,
            `a guard said that term ${refused} of ${lease} is over`,
            (term) => term?.fencingToken !== BigInt(refused),
          )
        }
        // Of one term: this process may have ended it in its own eyes before the store did.
        if (fencingToken !== undefined || sim.isEnding(life, lease, holder, fromMs)) return
        sim.mustHaveBeen(lease, fromMs, `a check said that ${holder} has not ${lease}`, (term) => !isThis(term))
      },
    },
  )
}

function waitUntilExpired(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const signal = steps.signal(step, 0.6)
  sim.call(life, `waitUntilExpired(${lease})`, () => random.pick(life.managers).waitUntilExpired(lease, { signal }), {
    signal,
    done: (_, fromMs) => sim.mustHaveBeen(lease, fromMs, `a waiter saw ${lease} vacant`, (term) => term === undefined),
  })
}

function observe(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const signal = steps.signal(step, 0.5)
  const observation = random.pick(life.managers).observe(lease, { signal, renewals: random.chance(0.2) })
  life.observations.add(observation)
  const left = 1 + random.int(3)
  const startedMs = sim.nowMs
  const next = (count: number): void => {
    if (!sim.runs(life)) return
    sim.call(life, `next() of an observation of ${lease}`, () => observation.next(), {
      signal,
      done: ({ value, done }) => {
        if (done === true) return
        sim.mustHaveBeen(lease, startedMs, `an observer saw ${show(value)} on ${lease}`, isShown(sim, value))
        if (count > 1) next(count - 1)
        else
          sim.call(life, `return() of an observation of ${lease}`, () => observation.return(undefined as never), {
            signal,
          })
      },
    })
  }
  next(left)
}

function find(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const signal = steps.signal(step, 0.2)
  sim.call(life, `find(${lease})`, () => random.pick(life.managers).find(lease, { signal }), {
    signal,
    done: (info, fromMs) =>
      sim.mustHaveBeen(lease, fromMs, `a reader found ${show(info)} on ${lease}`, isShown(sim, info)),
  })
}

function leases({ sim, random, life }: Step): void {
  sim.call(life, 'leases()', () => random.pick(life.managers).leases(), {
    done: (all, fromMs) => {
      for (const lease of sim.settings.leases) {
        const info = all.get(lease)
        sim.mustHaveBeen(lease, fromMs, `leases() showed ${show(info)} on ${lease}`, isShown(sim, info))
      }
    },
  })
}

function isShown(
  { settings }: Simulation,
  info: Info | undefined,
): (term: StoredTerm | undefined, entry: { readonly value: string | undefined }) => boolean {
  if (info === undefined) return (term) => term === undefined
  return (term, entry) =>
    term?.holder === info.holder &&
    term.fencingToken === info.fencingToken &&
    (!settings.strict || entry.value === info.value)
}

function show(info: Info | undefined): string {
  return info === undefined ? 'nobody' : `${info.holder}, term ${info.fencingToken}, ${info.value}`
}

// ── pins ────────────────────────────────────────────────────────────────────────────────────────────────────────

function pin(step: Step): void {
  const { sim, random, life, lease, steps } = step
  const entity = `e${random.int(2)}`
  const signal = steps.signal(step, 0.2)
  const manager = random.pick(life.managers)
  const chaseMs = random.chance(0.5) ? chased(step) : undefined
  const call = sim.pinning(life, lease, entity)
  sim.call(
    life,
    `pin(${lease}, ${entity})`,
    () => manager.pin(lease, entity, { signal }).finally(() => (call.toMs = sim.nowMs)),
    {
      signal,
      done: (_, fromMs) => {
        call.isDone = true
        sim.mustHaveBeen(lease, fromMs, `${entity} pinned ${lease}`, (_term, { pins }) => pins.has(entity))
        if (chaseMs === undefined) return
        sim.later(chaseMs, () => {
          if (sim.runs(life)) unpinOf({ sim, life }, lease, entity, manager)
        })
      },
    },
  )
}

/** A packet of the next pin arrives late, after the withdrawal that follows at once. Returns after how long that is asked for. */
function chased({ sim: { settings }, random, life: { faulty }, lease }: Step): number | undefined {
  const ms = random.pick([100, 1_000, 4_000, 9_000]) * (0.5 + random.next() / 2)
  const filter = { kind: 'pin', lease, times: 1 } as const
  if (settings.twice && (!settings.late || random.chance(0.5))) faulty.duplicate(ms, filter)
  else if (settings.late) faulty.executeLate(ms, filter)
  else return undefined
  return 1 + random.int(50)
}

function unpin(step: Step): void {
  const { sim, random, life, lease, steps } = step
  unpinOf({ sim, life }, lease, `e${random.int(2)}`, random.pick(life.managers), steps.signal(step, 0.2))
}

export function unpinOf(
  { sim, life }: Pick<Step, 'sim' | 'life'>,
  lease: string,
  entity: string,
  manager: Manager,
  signal?: AbortSignal,
): void {
  const call = sim.unpinning(life, lease, entity)
  const unpinning = (): Promise<void> => manager.unpin(lease, entity, { signal }).finally(() => (call.toMs = sim.nowMs))
  sim.call(life, `unpin(${lease}, ${entity})`, unpinning, {
    signal,
    done: (_, fromMs) => {
      call.isDone = true
      if (sim.wasPinnedSince(lease, entity, fromMs)) return
      sim.mustHaveBeen(lease, fromMs, `${entity} unpinned ${lease}`, (_term, { pins }) => !pins.has(entity))
    },
  })
}

function pinned({ sim, random, life }: Step): void {
  sim.call(life, 'pinned()', () => random.pick(life.managers).pinned(), {
    done: (all, fromMs) => {
      for (const lease of sim.settings.leases) {
        const entities = all.get(lease) ?? []
        sim.mustHaveBeen(
          lease,
          fromMs,
          `pinned() showed ${entities.join() || 'nothing'} on ${lease}`,
          (_, { pins }) => {
            return pins.size === entities.length && entities.every((entity) => pins.has(entity))
          },
        )
      }
    },
  })
}

/** What may be done to shares as well. */
const OF_ANY: ReadonlySet<Act> = new Set<Act>([
  releaseByName,
  revoke,
  checkByName,
  waitUntilExpired,
  observe,
  pin,
  unpin,
  find,
  strike,
])

// ── the world ───────────────────────────────────────────────────────────────────────────────────────────────────

function abort({ sim, random, steps }: Step): void {
  const aborting = random.maybe(steps.aborting)
  if (aborting === undefined || !sim.runs(aborting.life)) return
  steps.aborting.splice(steps.aborting.indexOf(aborting), 1)
  sim.note(aborting.life, 'abort')
  aborting.controller.abort(new GivenUp('give up'))
}

async function restart({ sim, random, life }: Step): Promise<void> {
  const isOrderly = random.chance(0.5)
  sim.note(life, isOrderly ? 'stops and comes back' : 'is killed and comes back')
  if (isOrderly) await sim.restart(life)
  else sim.kill(life)
}

async function advance({ sim, random }: Step): Promise<void> {
  const ms = random.pick([1, 5, 20, 100, 300, 1_000, 3_000, 10_000])
  sim.note(undefined, `${ms} ms pass`)
  const parts = sim.settings.rare ? 1 : 1 + random.int(3)
  for (let part = 0; part < parts && sim.problems.length === 0; part++) {
    await sim.time.advance(ms / parts)
    if (!sim.settings.rare) sim.lookAtAll()
  }
}
