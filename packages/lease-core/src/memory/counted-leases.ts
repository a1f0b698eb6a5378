/** The definitions of the counted leases of one namespace, and which shares each has. */
import { DEFINITION_MS } from '../share.ts'
import { LONGEST_DEADLINE_MS, type DefineOp } from '../substrate.ts'
import { Recent } from './recent.ts'

interface Definition {
  readonly capacity: number
  readonly generation: string
  /** Until when it is remembered; undefined: for ever. */
  untilMs: number | undefined
}

/** Below this many definitions old ones are not looked for. */
const SWEEP_FLOOR = 1024

export class CountedLeases {
  readonly #definitions = new Map<string, Definition>()
  /** By the counted lease; with shares that have lapsed and that nobody came across since. */
  readonly #shares = new Map<string, Set<string>>()
  /** When a counted lease was last undefined, and by which definition. */
  readonly #ended: Recent<{ readonly atMs: number; readonly generation: string }>
  /** The generations of definitions that are over. */
  readonly #before: Recent<true>
  #sweepAt = SWEEP_FLOOR

  constructor(hasClock: boolean) {
    const limit = hasClock ? { forMs: LONGEST_DEADLINE_MS } : { most: SWEEP_FLOOR }
    this.#ended = new Recent(limit)
    this.#before = new Recent(limit)
  }

  get size(): number {
    return this.#definitions.size
  }

  definition(counted: string): Pick<Definition, 'capacity' | 'generation'> | undefined {
    return this.#definitions.get(counted)
  }

  shares(counted: string): ReadonlySet<string> {
    return this.#shares.get(counted) ?? NONE
  }

  /** Whether this very operation is done, and nothing has come after it. */
  isDone({ lease, capacity, generation }: DefineOp): boolean {
    const known = this.#definitions.get(lease)
    if (known !== undefined) return known.generation === generation
    return capacity === undefined && this.#ended.get(lease)?.generation === generation
  }

  /** Returns whether it is now as the operation asks; undefined: a copy of an earlier request. */
  define(op: DefineOp, nowMs: number): boolean | undefined {
    if (this.isDone(op)) return true
    const { lease, capacity, from, generation } = op
    const known = this.#definitions.get(lease)
    if (this.isOver(generation)) return undefined
    if (known?.generation !== from) return false
    if (known !== undefined) this.#before.add(known.generation, true, nowMs)
    if (capacity !== undefined) this.#definitions.set(lease, { capacity, generation, untilMs: undefined })
    else {
      this.#definitions.delete(lease)
      this.#before.add(generation, true, nowMs)
      this.#ended.add(lease, { atMs: nowMs, generation }, nowMs)
    }
    return true
  }

  /** When it was last undefined. */
  endedMs(counted: string): number | undefined {
    return this.#ended.get(counted)?.atMs
  }

  /** Whether this was the generation of a definition that is over. */
  isOver(generation: string): boolean {
    return this.#before.get(generation) === true
  }

  /** By the claim with this nonce. */
  defineByUse(counted: string, capacity: number, nonce: string): void {
    this.#definitions.set(counted, { capacity, generation: nonce, untilMs: 0 })
  }

  add(counted: string, share: string, { nowMs, durationMs }: { nowMs: number; durationMs: number }): void {
    const shares = this.#shares.get(counted)
    if (shares === undefined) this.#shares.set(counted, new Set([share]))
    else shares.add(share)
    const definition = this.#definitions.get(counted)
    if (definition?.untilMs !== undefined) {
      definition.untilMs = Math.max(definition.untilMs, nowMs + durationMs + DEFINITION_MS)
    }
    if (this.#definitions.size > this.#sweepAt) this.#sweep(nowMs)
  }

  remove(counted: string, share: string): void {
    const shares = this.#shares.get(counted)
    shares?.delete(share)
    if (shares?.size === 0) this.#shares.delete(counted)
  }

  #sweep(nowMs: number): void {
    for (const [counted, { untilMs }] of this.#definitions) {
      const isOld = untilMs !== undefined && untilMs < nowMs
      if (isOld && !this.#shares.has(counted)) this.#definitions.delete(counted)
    }
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#definitions.size)
  }
}

const NONE: ReadonlySet<string> = new Set()
