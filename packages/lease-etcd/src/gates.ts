/**
 * Gates: one key for each counted lease, which decides every grant of a share. And what this process knows of the room behind them.
 *
 *     absent ──claim with a capacity, define──▶ defined ──undefine──▶ a mark, for an hour ──▶ absent
 *                                               │     ▲
 *                                               └─────┘ each grant puts it again, with the share, on the version that was read
 *
 * Shares are created by nothing else. So while the gate is as it was read, the weights that stand are at most those that were read:
 * a share that ends touches no gate. A grant fails only because another grant or definition was faster.
 *
 * The mark stays so that a definition that was sent before cannot define anew what is not defined any more, and so that anyone who
 * asks again finds its own call done, or that it was done and is over. A gate that a claim has made hangs on an etcd lease, renewed by each grant.
 *
 * The gate also says what the shares weighed at most when it was put, and what the heaviest ever weighed. That makes their number an
 * upper bound too, and exact where all weigh 1. So a claim need not read thousands of shares to find room for one more. And those who
 * are next in the queue watch the gate: so the claim of one that was notified goes by the latest grant.
 */
import { LatestMap } from 'lease-core/adapter'
import { foundIn, parsed, foreign } from './layout.ts'
import type { EtcdKeyValue } from './driver.ts'

export interface Gate {
  /** undefined: it is not defined, and this is the mark of that. */
  readonly capacity: number | undefined
  readonly generation: string
  /** Made by a claim. */
  readonly byUse: boolean
  /** No share weighs more than this; undefined: nobody knows. */
  readonly heaviest: number | undefined
  /** The shares weigh no more than this; undefined: nobody knows. */
  readonly weight: number | undefined
  /** The generation of the last `define` that found it undefined: the same request again is late. */
  readonly first: string | undefined
}

export function gateOf({ capacity, generation, byUse, heaviest, weight, first }: Gate): Buffer {
  const content = { c: capacity, g: generation, u: byUse ? true : undefined, m: heaviest, w: weight, f: first }
  return Buffer.from(JSON.stringify(content))
}

/** @throws when the key was not written by this library */
export function gateIn({ key, value }: Pick<EtcdKeyValue, 'key' | 'value'>): Gate {
  const { c, g, u = false, m, w, f } = parsed(key, value) as Readonly<Record<string, unknown>>
  if (typeof g !== 'string' || typeof u !== 'boolean' || !isCount(c) || !isCount(m) || !isCount(w)) throw foreign(key)
  if (f !== undefined && typeof f !== 'string') throw foreign(key)
  return { capacity: c, generation: g, byUse: u, heaviest: m, weight: w, first: f }
}

function isCount(value: unknown): value is number | undefined {
  return value === undefined || typeof value === 'number'
}

/** What is known of the room behind a gate. */
export interface KnownGate {
  readonly gate: Gate
  /** Its `mod_revision`. */
  readonly version: string
  /** While the gate is of this version, the shares that stand weigh no more than this. */
  readonly weight: number
  /** The revision at which this was known. */
  readonly asOf: number
}

/** A share that is gone. */
export interface GoneShare {
  readonly weight: number | undefined
  /** When it was created. */
  readonly fencingToken: bigint
  /** The revision at which it was removed. */
  readonly revision: string
}

/** With more than these the one that was used least lately is forgotten: the next claim reads it. */
const MOST = 10_000

interface Remembered extends KnownGate {
  /** The fencing tokens of the shares that were heard to be gone since: answers and watches may tell of one twice. */
  gone: Set<bigint> | undefined
}

/** The gates of one namespace, as far as this process knows them. */
export class KnownGates {
  readonly #known = new LatestMap<Remembered>(MOST)

  get(counted: string): KnownGate | undefined {
    return this.#known.get(counted)
  }

  /** Answers may come in another order than they were given. */
  learn(counted: string, known: KnownGate): void {
    const before = this.#known.get(counted)
    if (before !== undefined && before.asOf > known.asOf) return
    if (before !== undefined && before.asOf === known.asOf && before.weight <= known.weight) return
    this.#known.set(counted, { ...known, gone: undefined })
  }

  /** It was read, and not what the shares weigh. */
  see(counted: string, gate: Gate, { version, asOf }: Pick<KnownGate, 'version' | 'asOf'>): void {
    if (this.#known.get(counted)?.version === version) return
    this.learn(counted, { gate, version, weight: gate.weight ?? Number.POSITIVE_INFINITY, asOf })
  }

  forget(counted: string): void {
    this.#known.delete(counted)
  }

  /** One of its shares was removed. */
  gone(counted: string, { weight = 0, fencingToken, revision }: GoneShare): void {
    const known = this.#known.get(counted)
    // Only what the weight that is known includes: it stood then.
    if (known === undefined || Number(revision) <= known.asOf || fencingToken > BigInt(known.version)) return
    // No two shares of a counted lease have one fencing token: each grant puts the gate.
    if (known.gone?.has(fencingToken) === true) return
    const gone = (known.gone ?? new Set()).add(fencingToken)
    this.#known.set(counted, { ...known, gone, weight: Math.max(0, known.weight - weight) })
  }
}

/** The weight of a share. @throws when the key was not written by this library */
export function weightIn(kv: EtcdKeyValue): number {
  return foundIn(kv).body.weight ?? 1
}
