/** One process of the race: takes permits, locks and turns of jobs again and again, and records on what it relied, and when. */
import { setTimeout as pass } from 'node:timers/promises'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrUnknown, Manager, MAX_CAPACITY, type Held } from 'lease-core'
import { loadStore, nowMs, openClient, record, recordReliance, workerEntry, type WorkerEntry } from 'lease-chaos/worker'
import { OncePer, type Run } from '#src/once-per.ts'
import { ReadWriteLock } from '#src/read-write-lock.ts'
import { Semaphores } from '#src/semaphore.ts'

export interface RecipesEntry extends WorkerEntry {
  /** The semaphores, and how many permits each has. */
  readonly semaphores: Readonly<Record<string, number>>
  readonly lock: string
  /** A slot of theirs comes every `slotMs`. */
  readonly jobs: readonly { readonly name: string; readonly retry: boolean }[]
  readonly slotMs: number
  /** How many of this process ask for each semaphore and for the lock. */
  readonly runners: number
  /** Relies on what it has for as long as its work takes, held or not: what must not be done, and must be found. */
  readonly careless: boolean
}

// A run that was lost in a pause, or whose store is slow, may fail to give up its turn: that is no defect.
process.removeAllListeners('warning').on('warning', (warning: Error & { readonly code?: string }) => {
  if (warning.code !== 'LEASE_NOT_HELD' && warning.code !== 'LEASE_UNKNOWN') console.error(warning)
})

const entry = workerEntry() as RecipesEntry
const { name, leaseMs, slotMs, careless } = entry
await loadStore(entry.kind)
const manager = new Manager({ client: openClient(entry).client })
const semaphores = new Semaphores({ manager })
const lock = new ReadWriteLock({ manager, name: entry.lock, duration: leaseMs })
const once = new OncePer({ manager, atMost: leaseMs, atLeast: { minutes: 10 } })
/** How often work is long, and how long it is then. A careless one goes on after a pause for longer than its lease. */
const LONG = careless ? { share: 0.5, workMs: 10 * leaseMs } : { share: 0.03, workMs: 2 * leaseMs }

interface Asked {
  readonly lease: string
  readonly weight: number
  readonly askedMs: number
  readonly runner: string
}

/** Relies on it for a moment, seldom for several renewals, and seldom for as long as it is held. */
async function rely(
  held: Held,
  { runner, ...asked }: Asked,
  { forgotten = false, longShare = LONG.share } = {},
): Promise<void> {
  const fromMs = nowMs()
  const { lease } = asked
  const { fencingToken } = held
  record({ what: 'granted', lease, token: String(fencingToken), detail: runner, atMs: fromMs })
  const longestMs = Math.random() < longShare ? LONG.workMs : 10
  const workMs = forgotten ? Number.POSITIVE_INFINITY : Math.random() * longestMs
  const goesOn = (): boolean => careless || held.held
  await recordReliance({ fencingToken, ...asked }, () => goesOn() && nowMs() - fromMs < workMs, 4)
}

/** Most wait as long as it takes; some ask once, wait for a moment, or give up. */
function patience(): { readonly wait?: number | boolean; readonly signal?: AbortSignal } {
  const kind = Math.random()
  if (kind < 0.8) return {}
  if (kind < 0.87) return { wait: false }
  return kind < 0.94
    ? { wait: Math.ceil(Math.random() * 20) }
    : { signal: AbortSignal.timeout(Math.ceil(Math.random() * 20)) }
}

async function takePermits(semaphore: string, n: number, holder: string, runner: string): Promise<void> {
  const permits = Math.random() < 0.05 ? n : 1 + Math.floor(Math.random() * Math.ceil(n / 2))
  const keepAlive = Math.random() < 0.2
  const asked = { lease: semaphore, weight: permits, askedMs: nowMs(), runner }
  const timeoutMs = leaseMs * (0.5 + Math.random())
  const permit = await semaphores.post(semaphore, holder, timeoutMs, { n, permits, keepAlive, ...patience() })
  await rely(permit, asked, { forgotten: !careless && !keepAlive && Math.random() < 0.02 })
  await permit.close()
}

async function takeLock(holder: string, runner: string): Promise<void> {
  const writes = Math.random() < 0.3
  const asked = { lease: entry.lock, weight: writes ? MAX_CAPACITY : 1, askedMs: nowMs(), runner }
  const locked = await (writes ? lock.wlock(holder, patience()) : lock.rlock(holder, patience()))
  await rely(locked, asked)
  await locked.unlock()
}

/** Comes for each slot, by a clock that is behind by so much. */
async function takeTurn({ name: job, retry }: RecipesEntry['jobs'][number], lateMs: number): Promise<void> {
  const clockMs = Date.now() - lateMs
  await pass(slotMs - (clockMs % slotMs))
  const slot = new Date(Math.round((Date.now() - lateMs) / slotMs) * slotMs)
  const asked = { lease: job, weight: 1, askedMs: nowMs(), runner: job }
  const work = async (run: Run): Promise<void> => {
    const named = { lease: job, token: String(run.fencingToken), detail: run.slot, askedMs: asked.askedMs }
    record({ what: 'begun', ...named, atMs: nowMs() })
    // More of them, to be killed in the middle.
    await rely(run, asked, { longShare: 5 * LONG.share })
  }
  if (!retry) {
    await once.run(job, slot, ({ run }) => work(run))
    return
  }
  const begun = await once.begin(job, slot, { retry })
  if (!begun.ran) return
  const { run } = begun
  try {
    await work(run)
  } finally {
    const untilMs = nowMs() + run.remaining().toMillis()
    await run.release()
    // Otherwise another may have had the turn by then, and what is done may not be recorded.
    if (nowMs() < untilMs) record({ what: 'done', lease: job, token: String(run.fencingToken), atMs: nowMs() })
  }
}

/** @param attempt what is expected to fail now and then, in these ways */
async function race(attempt: (round: number) => Promise<void>): Promise<never> {
  for (let round = 0; ; round++) {
    try {
      await attempt(round)
    } catch (error) {
      const gaveUp = error instanceof DOMException && error.name === 'TimeoutError'
      const isExpected = [ErrClaimDenied, ErrUnknown, ErrNotHeld, ErrLost].some((kind) => error instanceof kind)
      if (!gaveUp && !isExpected) throw error
    }
    await pass(Math.random() * 5)
  }
}

const runners = Array.from({ length: entry.runners }, (_, index) => `${name}-${index}`)
await Promise.all([
  ...Object.entries(entry.semaphores).flatMap(([semaphore, n]) =>
    runners.map((runner) => race((round) => takePermits(semaphore, n, `${runner}-${round}`, runner))),
  ),
  ...runners.map((runner) => race((round) => takeLock(`${runner}-${round}`, runner))),
  ...entry.jobs.map((job) => {
    const lateMs = Math.random() * slotMs
    return race(() => takeTurn(job, lateMs))
  }),
])
