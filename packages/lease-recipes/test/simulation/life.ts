/** One life of a process: its machine, its client and manager, its recipes, and what its code holds in its hands. */
import { Manager } from 'lease-core'
import type { Held, Hold, HoldOptions } from 'lease-core'
import { SimulatedProcess, type ProcessParts } from 'lease-simulation'
import type { Candidate } from '#src/lead.ts'
import { Authority } from '#src/authority.ts'
import { election, type ElectionNode } from '#src/election.ts'
import { FailClosedLock, FailOpenLock } from '#src/fenced-lock.ts'
import { FencingGate, type FencingStore } from '#src/fencing-gate.ts'
import { Once } from '#src/once.ts'
import { OncePer } from '#src/once-per.ts'
import { ReadWriteLock } from '#src/read-write-lock.ts'
import { Semaphores } from '#src/semaphore.ts'
import { Throttle } from '#src/throttle.ts'
import { webLocks, type WebLocks } from '#src/web-locks.ts'
import type { Settings } from './settings.ts'

export interface LifeParts extends ProcessParts<Settings> {
  readonly fences: FencingStore
  /** Of `Once`: those that do not fit into a lease. */
  readonly results: Map<string, string>
}

/** Something that a process has been granted, and how to tell whether it relies on it. */
export interface Thing {
  readonly recipe: string
  /** What it is of. */
  readonly resource: string
  readonly lease: string
  readonly fencingToken: bigint
  /** Nobody else may have anything of the resource at the same time. */
  readonly isExclusive: boolean
  /** It is known by its signal alone, which follows a little later. */
  readonly isBySignal?: boolean
  /** The recipe that ends it when it is stopped. */
  readonly source?: object | undefined
  /** For guarded writes. */
  readonly held?: Held
  relies(): boolean
  /** Gives it back, or ends the work. */
  end(): void
  /** Its process has asked for its end. */
  isAsked?: boolean
  /** When it was first found to be over in the store, by the monotonic clock of the process. */
  overMs?: number
}

export const KEEP_RESULT_MS = 20_000
export const AT_LEAST_MS = 300_000
export const PERIOD_MS = 3_000
export const THROTTLED = 2
export const MAX_READERS = 2
export const TTL_MS = 5_000

/** A manager that says when a process has been granted something: in that instant calls are given up. */
class ToldManager extends Manager {
  granted = (): void => {}

  override hold(lease: string, holder: string, options: HoldOptions): Promise<Hold> {
    const hold = super.hold(lease, holder, options)
    hold.then(
      () => this.granted(),
      () => {},
    )
    return hold
  }
}

export class Life extends SimulatedProcess {
  readonly manager: ToldManager
  things: Thing[] = []
  /** The latest ones that are over. */
  readonly dead: Thing[] = []
  isStopping = false
  /** How many recipes were stopped: calls of them may say so. */
  stops = 0
  /** Those that were stopped end what they are granted in the same moment. */
  readonly stopped: WeakSet<object> = new WeakSet()
  semaphores!: Semaphores
  /** L: any number of readers; M: few. */
  readonly locks: ReadWriteLock[] = []
  throttle!: Throttle
  webLocks!: WebLocks
  authority!: Authority
  node!: ElectionNode
  /** Does not compete. */
  watcher!: ElectionNode
  candidate: Candidate | undefined
  /** With heartbeats, without. */
  readonly failOpen: FailOpenLock[] = []
  failClosed!: FailClosedLock
  once!: Once
  oncePer!: OncePer
  gate!: FencingGate
  /** Called one after the other when the manager has granted something. */
  readonly onGranted: (() => void)[] = []
  readonly #fences: FencingStore
  readonly #results: Map<string, string>

  constructor(parts: LifeParts) {
    super(parts)
    const { settings, clock, fences, results } = parts
    this.#fences = fences
    this.#results = results
    this.manager = new ToldManager({ client: this.client, clock, maxSleep: settings.maxSleepMs })
    this.manager.granted = () => this.onGranted.shift()?.()
    this.renew()
  }

  /** Makes this recipe anew, or all: those of before are stopped, and of no more use. */
  renew(recipe?: object): void {
    const { manager, clock, name } = this
    const isWanted = (one: object | undefined): boolean => recipe === undefined || one === recipe
    const owner = `p${name}`
    if (recipe !== undefined) {
      this.stops++
      this.stopped.add(recipe)
    }
    if (isWanted(this.semaphores)) this.semaphores = new Semaphores({ manager, clock })
    if (isWanted(this.locks[0])) this.locks[0] = new ReadWriteLock({ manager, clock, name: 'L', duration: TTL_MS })
    if (isWanted(this.locks[1]))
      this.locks[1] = new ReadWriteLock({ manager, clock, name: 'M', duration: 900, maxReaders: MAX_READERS })
    if (isWanted(this.authority)) {
      const options = { lease: 'authority', holder: owner, ttl: TTL_MS, heartbeatInterval: 1_000 }
      this.authority = new Authority({ manager, clock, ...options })
    }
    if (isWanted(this.failOpen[0]))
      this.failOpen[0] = new FailOpenLock({ manager, clock, owner, leaseDuration: TTL_MS, heartbeatPeriod: 1_500 })
    if (isWanted(this.failOpen[1])) this.failOpen[1] = new FailOpenLock({ manager, clock, owner, leaseDuration: 2_000 })
    if (isWanted(this.failClosed))
      this.failClosed = new FailClosedLock({ manager, clock, owner, leaseDuration: TTL_MS })
    if (isWanted(this.candidate)) this.candidate = undefined
    if (recipe !== undefined) return
    this.node = election({ manager, clock })({ path: 'path', id: owner, value: `v${name}`, ttl: TTL_MS })
    this.watcher = election({ manager, clock })({ path: 'path', candidate: false })
    this.throttle = new Throttle({ manager, clock, name: 'Q', n: THROTTLED, period: PERIOD_MS })
    this.webLocks = webLocks(manager, { duration: TTL_MS })
    const results = this.#results
    const store = {
      set: async (id: string, text: string): Promise<void> => void results.set(id, text),
      get: async (id: string): Promise<string | undefined> => results.get(id),
    }
    this.once = new Once({ manager, clock, prefix: 'once', duration: TTL_MS, keepResult: KEEP_RESULT_MS, store })
    this.oncePer = new OncePer({ manager, prefix: 'jobs', atMost: TTL_MS, atLeast: AT_LEAST_MS })
    this.gate = new FencingGate({ store: this.#fences })
  }

  /** Ends all recipes in an orderly way. */
  async stopRecipes(): Promise<void> {
    const { semaphores, locks, authority, node, watcher, candidate, failOpen, failClosed } = this
    const recipes = [semaphores, ...locks, authority, node, watcher, candidate, ...failOpen, failClosed]
    await Promise.all(recipes.map(async (recipe) => recipe?.stop()))
  }
}
