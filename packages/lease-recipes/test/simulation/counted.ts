/** Semaphores, throttles, read-write locks and web locks: what is built on counted leases. */
import { countedName, MAX_CAPACITY, shareName } from 'lease-core'
import { isFullFor, type CountedEntry, type Failure } from 'lease-simulation'
import type { Lock, LockMode } from '#src/read-write-lock.ts'
import type { Permit } from '#src/semaphore.ts'
import { using } from '#src/using.ts'
import { MAX_READERS, THROTTLED } from './life.ts'
import { afterTurns, DURATIONS, holderOf, takeHeld, WAITS, work, WorkFailed, type Act, type Step } from './step.ts'

export const SEMAPHORES = ['S', 'T'] as const

function was(
  { world }: Step,
  name: string,
  fromMs: number,
  what: string,
  test: (entry: CountedEntry, atMs: number) => boolean,
): void {
  if (world.counted.wasTrue(countedName(name), fromMs, world.nowMs, test)) return
  world.problem('5 shares', `${name}: ${what}, asked at ${Math.round(fromMs)}: that was never so`)
}

/** That there is no room is true, or others are ahead: of this process, or in the queue. */
function judgeFull(step: Step, name: string, weight: number, fromMs: number): void {
  const { world, life } = step
  if (world.hadCompany(life, name, fromMs)) return
  was(step, name, fromMs, 'there is no room', isFullFor(weight))
}

// ── semaphores ──────────────────────────────────────────────────────────────────────────────────────────────────

function post(step: Step): void {
  const { world, random, life, calls } = step
  const id = random.pick(SEMAPHORES)
  const name = `semaphores/${id}`
  const holder = holderOf(step)
  const timeout = random.pick(DURATIONS)
  const known = world.counted.latest(countedName(name)).capacity
  const n = random.chance(0.5) ? (known ?? 2) : random.pick([undefined, undefined, 2, 3])
  const permits = Math.min(random.pick([1, 1, 1, 2, 3]), n ?? 3)
  const wait = random.pick(WAITS)
  const keepAlive = random.chance(0.4)
  const signal = calls.signal(step, wait === true ? 0.8 : 0.4)
  const patience = random.chance(0.1) ? { retries: 3 } : { wait }
  const shown = JSON.stringify({ permits, n, ...patience, keepAlive })
  const source = life.semaphores
  const given = (permit: Permit): void => {
    if (permit.held) takeHeld(step, { recipe: 'permit', resource: name, held: permit, isExclusive: false, source })
  }
  const failed = (error: Failure, fromMs: number): void => {
    if (error.name === 'ErrLimitMismatch')
      was(step, name, fromMs, `n is not ${n}`, ({ capacity }) => capacity !== undefined && capacity !== n)
    else if (error.name === 'ErrNoSemaphore')
      was(step, name, fromMs, 'there is no semaphore', ({ capacity }) => capacity === undefined)
    else if (error.code === 'LEASE_CLAIM_DENIED') judgeFull(step, name, permits, fromMs)
  }
  const codes = ['LEASE_CLAIM_DENIED', 'LEASE_NOT_HELD', 'LEASE_NOT_VALID']
  const options = { permits, n, ...patience, keepAlive, signal }
  if (random.chance(0.15)) {
    const { wait: _, retries: __, ...once } = { wait: undefined, retries: undefined, ...options }
    const post = (): Promise<Permit | undefined> => life.semaphores.tryPost(id, holder, timeout, once)
    void world.call(life, `tryPost(${id}, ${holder}, ${timeout}, ${shown})`, post, {
      codes,
      signal,
      resource: name,
      failed,
      done: (permit, fromMs) => {
        if (permit === undefined) judgeFull(step, name, permits, fromMs)
        else given(permit)
      },
    })
    return
  }
  const isUsed = random.chance(0.2)
  const what = `post(${id}, ${holder}, ${timeout}, ${shown})`
  void world.call(life, what, () => life.semaphores.post(id, holder, timeout, options), {
    codes,
    signal,
    resource: name,
    failed,
    done: (permit) => (isUsed ? use(step, name, permit) : given(permit)),
  })
}

/** Works under a permit. */
function use(step: Step, resource: string, permit: Permit): void {
  const { world, life } = step
  const { lease, fencingToken } = permit
  const body = ({ signal }: { readonly signal: AbortSignal }): Promise<string> =>
    work(step, {
      recipe: 'using',
      resource,
      lease,
      fencingToken,
      isExclusive: false,
      signal,
      relies: () => permit.held,
    }).finally(() => {
      // Other posts of this holder got the same permit, which ends with the work.
      if (!signal.aborted) asked(step, lease)
    })
  void world.call(
    life,
    `using(${lease}, term ${fencingToken})`,
    () => using(permit, body, { releaseFailed: () => {} }),
    {
      codes: ['LEASE_LOST'],
      expects: (error) => error instanceof WorkFailed,
    },
  )
}

/** The end of what this process has of the lease is asked for. */
function asked({ life }: Step, lease: string): void {
  for (const thing of life.things) if (thing.lease === lease) thing.isAsked = true
}

function closePermit(step: Step): void {
  const { world, random, life } = step
  const id = random.pick(SEMAPHORES)
  const holder = holderOf(step)
  asked(step, shareName(`semaphores/${id}`, holder))
  if (random.chance(0.2)) {
    world.note(life, `closeAsync(${id}, ${holder})`)
    return life.semaphores.closeAsync(id, holder)
  }
  const what = `close(${id}, ${holder})`
  void world.call(life, what, () => life.semaphores.close(id, holder), { codes: ['LEASE_NOT_HELD'] })
}

function refresh(step: Step): void {
  const { world, random, life } = step
  const thing = random.maybe(life.things.filter(({ held }) => held !== undefined && 'refresh' in held))
  if (thing === undefined) return
  const held = thing.held as unknown as Permit | Lock
  const timeout = 'mode' in held ? random.pick([undefined, 300, 6_000]) : undefined
  const what = `refresh(${timeout ?? ''}) of ${thing.lease}`
  const refreshed = (): Promise<void> => ('mode' in held ? held.refresh(timeout) : held.refresh())
  void world.call(life, what, refreshed, { codes: ['LEASE_LOST', 'LEASE_NOT_HELD', 'LEASE_CLAIM_DENIED'] })
}

function create(step: Step): void {
  const { world, random, life, calls } = step
  const id = random.pick(SEMAPHORES)
  const n = random.pick([2, 2, 3])
  const signal = calls.signal(step, 0.2)
  void world.call(life, `create(${id}, ${n})`, () => life.semaphores.create(id, n, { signal }), {
    codes: ['LEASE_CLAIM_DENIED', 'LEASE_INVALID'],
    signal,
    failed: ({ name }, fromMs) => {
      const isOther = ({ capacity }: CountedEntry): boolean => capacity !== undefined && capacity !== n
      if (name === 'ErrLimitMismatch') was(step, `semaphores/${id}`, fromMs, `n is not ${n}`, isOther)
    },
  })
}

function resize(step: Step): void {
  const { world, random, life, calls } = step
  const id = random.pick(SEMAPHORES)
  const n = random.pick([1, 2, 3, 4])
  const signal = calls.signal(step, 0.4)
  void world.call(life, `resize(${id}, ${n})`, () => life.semaphores.resize(id, n, { signal }), {
    codes: ['LEASE_NOT_HELD', 'LEASE_INVALID'],
    signal,
  })
}

function destroy(step: Step): void {
  const { world, random, life, calls } = step
  const id = random.pick(SEMAPHORES)
  const name = `semaphores/${id}`
  for (const thing of life.things) if (thing.resource === name) thing.isAsked = true
  const signal = calls.signal(step, 0.2)
  void world.call(life, `destroy(${id})`, () => life.semaphores.destroy(id, { signal }), {
    codes: ['LEASE_INVALID'],
    signal,
    done: (_, fromMs) => {
      was(step, name, fromMs, 'it is destroyed', ({ capacity }) => capacity === undefined)
      // Of the shares that were granted before, none is left at the end, or it has been created anew.
      const isBare = ({ capacity, shares }: CountedEntry, atMs: number): boolean =>
        capacity !== undefined || [...shares.values()].every(({ heldUntilMs }) => atMs > heldUntilMs)
      was(step, name, fromMs, 'no permits are left', isBare)
    },
  })
}

function read(step: Step): void {
  const { world, random, life } = step
  const id = random.pick(SEMAPHORES)
  void world.call(life, `read(${id})`, () => life.semaphores.read(id), {
    codes: ['LEASE_NOT_HELD'],
    done: ({ n }, fromMs) => was(step, `semaphores/${id}`, fromMs, `n is ${n}`, ({ capacity }) => capacity === n),
  })
}

function start(step: Step): void {
  const { world, random, life, calls } = step
  const wait = random.pick(WAITS)
  const signal = calls.signal(step, wait === true ? 0.7 : 0.3)
  const options = { codes: ['LEASE_CLAIM_DENIED'], signal, resource: 'throttles/Q' }
  const denied = (fromMs: number): void => judgeFull(step, 'throttles/Q', 1, fromMs)
  if (wait === false) {
    void world.call(life, 'tryStart()', () => life.throttle.tryStart({ signal }), {
      ...options,
      done: (isGranted, fromMs) => {
        if (isGranted) world.started(fromMs)
        else denied(fromMs)
      },
    })
    return
  }
  void world.call(life, `start(${wait})`, () => life.throttle.start({ wait, signal }), {
    ...options,
    done: (_, fromMs) => world.started(fromMs),
    failed: ({ code }, fromMs) => {
      if (code === 'LEASE_CLAIM_DENIED') denied(fromMs)
    },
  })
}

// ── locks ───────────────────────────────────────────────────────────────────────────────────────────────────────

function lock(step: Step): void {
  const { world, random, life, calls } = step
  const locks = random.pick(life.locks)
  const name = `rwlocks/${locks.name}`
  const holder = holderOf(step)
  const mode: LockMode = random.chance(0.4) ? 'write' : 'read'
  const wait = random.pick(WAITS)
  const timeout = random.pick([undefined, undefined, 300, 6_000])
  const signal = calls.signal(step, wait === true ? 0.8 : 0.4)
  const readers = locks.maxReaders ?? MAX_CAPACITY
  const weight = mode === 'read' ? 1 : readers
  const options = { wait, timeout, signal }
  const isShared = mode === 'read'
  const share = shareName(name, holder)
  const denied = (fromMs: number): void => {
    // The same holder has the lock in the other mode.
    if (world.history.wasTrue(share, fromMs, world.nowMs, (term) => term !== undefined)) return
    judgeFull(step, name, weight, fromMs)
  }
  const isTry = wait === false && random.chance(0.5)
  const method = isShared ? (isTry ? 'tryRlock' : 'rlock') : isTry ? 'tryWlock' : 'wlock'
  const run = (): Promise<Lock | undefined> =>
    isTry
      ? locks[isShared ? 'tryRlock' : 'tryWlock'](holder, { timeout, signal })
      : locks[isShared ? 'rlock' : 'wlock'](holder, options)
  void world.call<Lock | undefined>(
    life,
    `${method}(${locks.name}, ${holder}, ${JSON.stringify({ wait, timeout })})`,
    run,
    {
      codes: ['LEASE_CLAIM_DENIED', 'LEASE_LOST'],
      signal,
      resource: name,
      done: (held, fromMs) => {
        if (held === undefined) return denied(fromMs)
        if (held.mode !== mode) world.problem('5 answers', `${method} gave a lock to ${held.mode}`)
        if (held.held)
          takeHeld(step, { recipe: `${mode} lock`, resource: name, held, isExclusive: !isShared, source: locks })
      },
      failed: ({ code }, fromMs) => {
        if (code === 'LEASE_CLAIM_DENIED') denied(fromMs)
      },
    },
  )
}

function unlock(step: Step): void {
  const { world, random, life } = step
  const locks = random.pick(life.locks)
  const holder = holderOf(step)
  const method = random.chance(0.5) ? 'runlock' : 'wunlock'
  asked(step, shareName(`rwlocks/${locks.name}`, holder))
  if (random.chance(0.2)) {
    world.note(life, `${method}Async(${locks.name}, ${holder})`)
    return locks[`${method}Async`](holder)
  }
  void world.call(life, `${method}(${locks.name}, ${holder})`, () => locks[method](holder), {
    codes: ['LEASE_NOT_HELD'],
  })
}

export function request(step: Step): void {
  const { world, random, life, calls } = step
  const steal = world.settings.operators && random.chance(0.1)
  const mode = !steal && random.chance(0.5) ? 'shared' : 'exclusive'
  const ifAvailable = !steal && random.chance(0.3)
  const signal = steal || ifAvailable ? undefined : calls.signal(step, 0.8)
  const options = { mode, ifAvailable, steal, signal } as const
  const name = countedName('weblocks/W')
  let isGranted = false
  const fromMs = world.nowMs
  const run = (): Promise<unknown> =>
    life.webLocks.request('W', options, (lock) => {
      if (lock === null) {
        judgeFull(step, 'weblocks/W', mode === 'shared' ? 1 : MAX_CAPACITY, fromMs)
        return ''
      }
      isGranted = true
      const { fencingToken } = lock
      const lease = [...world.counted.shares].find(
        (share) => share.startsWith(name) && world.history.term(share, fencingToken) !== undefined,
      )
      const isExclusive = mode === 'exclusive'
      const parts = { recipe: 'web lock', resource: 'weblocks/W', lease: lease ?? '?', fencingToken, isExclusive }
      const working = { ...parts, signal: lock.signal, isBySignal: true, relies: () => !lock.signal.aborted }
      return work(step, working)
    })
  void world.call(life, `request(W, ${JSON.stringify({ mode, ifAvailable, steal })})`, run, {
    signal,
    resource: 'weblocks/W',
    expects: (error) =>
      error instanceof WorkFailed || (isGranted && error instanceof DOMException && error.name === 'AbortError'),
  })
}

function query({ world, life }: Step): void {
  void world.call(life, 'query()', () => life.webLocks.query(), {
    done: ({ held }, fromMs) => {
      for (const { clientId } of held) {
        const share = shareName('weblocks/W', clientId)
        if (!world.history.wasTrue(share, fromMs, world.nowMs, (term) => term !== undefined))
          world.problem('5 answers', `query() showed ${clientId}, which had no lock since it was asked`)
      }
      const writers = held.filter(({ mode }) => mode === 'exclusive').length
      if (writers > 0 && held.length > 1 && !world.settings.clockless)
        world.problem('1 exclusion', `query() showed ${held.length} locks, ${writers} of them exclusive`)
    },
  })
}

/** They are stopped, sometimes within a few microtasks of the next grant, and made anew. */
function stopCounted(step: Step): void {
  const { world, random, life } = step
  const recipe = random.pick([life.semaphores, ...life.locks])
  const turns = random.int(20)
  const stop = (): void => {
    void afterTurns(turns, () => {
      if (world.runs(life) && !life.isStopping) stopAndRenew(step, recipe)
    })
  }
  if (random.chance(0.5)) life.onGranted.push(stop)
  else stop()
}

/** Stops a recipe: nothing of it is relied on from then on. The process goes on with a new one. */
export function stopAndRenew(
  { world, life }: Pick<Step, 'world' | 'life'>,
  recipe: { stop(): Promise<unknown> },
): void {
  life.renew(recipe)
  for (const thing of life.things) if (thing.source === recipe) thing.isAsked = true
  void world.call(life, `stop() of ${recipe.constructor.name}`, () => recipe.stop(), {
    done: () => world.nothingIsRelied(life, recipe),
  })
}

export const SEMAPHORE_ACTS: readonly (readonly [number, Act])[] = [
  [12, post],
  [3, closePermit],
  [2, refresh],
  [2, create],
  [2, read],
  [4, start],
]

export const SEMAPHORE_OPERATOR_ACTS: readonly (readonly [number, Act])[] = [
  [2, resize],
  [1, destroy],
]

export const LOCK_ACTS: readonly (readonly [number, Act])[] = [
  [10, lock],
  [2, unlock],
  [1, refresh],
  [6, request],
  [1, query],
]

export const STOP_COUNTED: Act = stopCounted
/** For the crowd: what each of these may have at once. */
export const CAPACITIES: Readonly<Record<string, number>> = { S: 2, T: 3, M: MAX_READERS, Q: THROTTLED }
