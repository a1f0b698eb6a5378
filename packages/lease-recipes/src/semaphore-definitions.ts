/**
 * What is known of the definitions of semaphores, so that to take a permit costs one round trip.
 *
 * A definition is a pinned lease whose value says how many permits there are. One that was asked for is observed from then
 * on; what is known of it counts for `FRESH_MS` from before the read that confirmed it was sent, however long this process
 * sleeps in between, and not at all once a change was heard of. Administrators keep slots that they take away out of
 * reach for longer than that.
 */
import { allowListeners, ErrStopped, MAX_ANY, Stopwatch, type Clock, type Info, type Manager } from 'lease-core'
import { orAborted } from './or-aborted.ts'
import { readLease } from './read-lease.ts'

/** For how long a definition is relied on without a read. */
export const FRESH_MS = 30_000
/** Beyond so many, definitions that nobody uses are not observed any more: the one that was not used for the longest first. */
const MAX_OBSERVED = 1000

/** What the value of a definition's lease says. */
export interface DefinitionContent {
  readonly n: number
  /** It is being destroyed: for all but administrators there is no such semaphore. */
  readonly closed: boolean
}

/** How many permits there are, by which term of the definition. */
export interface Definition extends DefinitionContent {
  readonly holder: string
  /** Fencing token of the definition's lease: another for each creation, the same whatever the size. */
  readonly generation: bigint
}

/** A definition that may be relied on while `fresh`. */
export interface KnownDefinition extends Definition {
  /** Aborts when a change of the definition was heard of, or nobody observes it any more. */
  readonly changed: AbortSignal
  /** Whether it was so at some moment less than `FRESH_MS` ago. */
  readonly fresh: boolean
}

/** What the value of a definition's lease says; undefined: this is no definition. */
export function parseDefinition(info: Info | undefined): Definition | undefined {
  if (info?.value === undefined) return undefined
  let parsed: { readonly n?: unknown; readonly closed?: unknown } | null
  try {
    parsed = JSON.parse(info.value) as typeof parsed
  } catch {
    return undefined
  }
  const n = parsed?.n
  if (!isLimit(n)) return undefined
  return { n, closed: parsed?.closed === true, holder: info.holder, generation: info.fencingToken }
}

/** What `parseDefinition` reads. */
export function formatDefinition({ n, closed }: DefinitionContent): string {
  return JSON.stringify(closed ? { n, closed } : { n })
}

/** Whether so many permits are possible. */
export function isLimit(n: unknown): n is number {
  return typeof n === 'number' && Number.isInteger(n) && n >= 1 && n <= MAX_ANY
}

/** The definitions that one process knows. */
export class Definitions {
  readonly #manager: Pick<Manager, 'observe'>
  readonly #clock: Clock
  readonly #observed = new Map<string, Observed>()
  /** By lease, how many calls use the definition now. */
  readonly #users = new Map<string, number>()
  /** Those observed that nobody uses: the one that was used last is the last. */
  readonly #unused = new Set<string>()
  #closed = false

  constructor(manager: Pick<Manager, 'observe'>, clock: Clock) {
    this.#manager = manager
    this.#clock = clock
  }

  /**
   * Runs a call that asks for this definition, which stays observed meanwhile. Were it forgotten to make room for another one, the
   * call would ask again, and take the place of the next: no limit applies to what is in use.
   */
  async use<T>(lease: string, call: () => Promise<T>): Promise<T> {
    this.#users.set(lease, (this.#users.get(lease) ?? 0) + 1)
    this.#unused.delete(lease)
    try {
      return await call()
    } finally {
      const left = (this.#users.get(lease) ?? 1) - 1
      if (left > 0) this.#users.set(lease, left)
      else {
        this.#users.delete(lease)
        if (this.#observed.has(lease)) this.#unused.add(lease)
        this.#makeRoom()
      }
    }
  }

  /** Within `use`. The definition, fresh: without a read if it is known, else after one. undefined: there is none that is open. */
  async current(lease: string, signal: AbortSignal): Promise<KnownDefinition | undefined> {
    for (;;) {
      if (this.#closed) throw new ErrStopped('nothing is observed any more', { lease })
      const observed = this.#observed.get(lease) ?? this.#observe(lease)
      const known = await orAborted(observed.known, signal)
      if (known === 'ended') continue
      if (known === undefined) return undefined
      if (known.fresh || (await this.confirm(lease, known, signal))) return known
    }
  }

  /** Makes sure that the definition is what it was, by a read; if not, it is forgotten. */
  async confirm(lease: string, known: KnownDefinition, signal: AbortSignal): Promise<boolean> {
    const asked = new Stopwatch(this.#clock)
    const found = parseDefinition(await readLease(this.#manager, lease, signal))
    const observed = this.#observed.get(lease)
    if (observed === undefined || known.changed.aborted || !isSame(known, found)) {
      observed?.end()
      return false
    }
    observed.confirmed = asked
    return true
  }

  /** Nothing is observed any more. */
  close(): void {
    this.#closed = true
    for (const observed of [...this.#observed.values()]) observed.end()
  }

  #observe(lease: string): Observed {
    const controller = new AbortController()
    allowListeners(controller.signal)
    const observed: Observed = {
      confirmed: new Stopwatch(this.#clock),
      known: Promise.resolve(undefined),
      end: () => {
        if (this.#observed.get(lease) === observed) {
          this.#observed.delete(lease)
          this.#unused.delete(lease)
        }
        controller.abort(new DOMException('the definition has changed', 'AbortError'))
      },
    }
    observed.known = this.#follow(lease, observed, controller.signal)
    observed.known.catch(() => {}) // told to those who asked
    this.#observed.set(lease, observed)
    this.#makeRoom()
    return observed
  }

  #makeRoom(): void {
    for (const lease of this.#unused) {
      if (this.#observed.size <= MAX_OBSERVED) return
      this.#observed.get(lease)?.end()
    }
  }

  async #follow(
    lease: string,
    observed: Observed,
    changed: AbortSignal,
  ): Promise<KnownDefinition | 'ended' | undefined> {
    const states = this.#manager.observe(lease, { signal: changed })
    try {
      const definition = parseDefinition((await states.next()).value)
      if (definition === undefined || definition.closed) {
        observed.end()
        return undefined
      }
      void endWithChange(states, definition).finally(observed.end)
      return {
        ...definition,
        changed,
        get fresh() {
          return !changed.aborted && observed.confirmed.elapsedMs < FRESH_MS
        },
      }
    } catch (error) {
      if (changed.aborted) return 'ended'
      observed.end()
      throw error
    }
  }
}

interface Observed {
  /** Before the latest read that showed it unchanged. */
  confirmed: Stopwatch
  known: Promise<KnownDefinition | 'ended' | undefined>
  readonly end: () => void
}

/** Resolves when the observation shows something else, or ends. */
async function endWithChange(states: AsyncGenerator<Info | undefined>, definition: Definition): Promise<void> {
  try {
    for await (const info of states) if (!isSame(definition, parseDefinition(info))) return
  } catch {
    // The manager was stopped, or nobody is interested any more.
  }
}

function isSame(a: Definition, b: Definition | undefined): boolean {
  return a.n === b?.n && a.closed === b.closed && a.generation === b.generation && a.holder === b.holder
}
