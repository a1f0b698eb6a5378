/**
 * Random operations on shares, one after the other, some of them sent twice: what a store answers is what memory does. So is what it tells,
 * and what it says of requests that come late, if it has a clock.
 */
import { expect } from 'chai'
import { MemorySubstrate, type LeaseChange } from 'lease-core'
import {
  LONGEST_DEADLINE_MS,
  type Call,
  type Counted,
  type Holding,
  type Op,
  type Substrate,
  type Verdict,
} from 'lease-core/adapter'
import { enough, until } from 'lease-servers'
import { it } from 'mocha'
import { newCall, sleep, unique } from './words.ts'

const HOLDERS = ['a', 'b', 'c', 'd', 'e']
const CLIENTS = ['client-one--', 'client-two--', 'client-three']
const ROUNDS = enough(1)
const STEPS = 250
/** Stores without a clock take ten times as long for a step. */
const FEW_STEPS = enough(60)
/** Longer than a test takes. */
const LASTING_MS = 60_000
/** Of a wait for the same messages, of two milliseconds each. */
const MOST_TRIES = 5_000

/** What there is twice: in memory, and in the store. */
type Pair<T> = readonly [memory: T, store: T]

/** The same operation, with the tickets and fencing tokens of the store that it goes to. */
type MakeOp = (side: 0 | 1) => Op

interface Ticket {
  readonly client: string
  readonly holder: string
  readonly weight: number
  readonly places: Pair<number>
}

/** Sent in this way, and perhaps once more. */
interface Sent {
  readonly make: MakeOp
  readonly client: string
  readonly calls: Pair<Call>
}

/** Numbers that a seed decides. */
class Dice {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** From 0 to below this. */
  roll(below: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((this.#state / 2 ** 32) * below)
  }

  of<T>(list: readonly T[]): T {
    return list[this.roll(list.length)] as T
  }

  /** Once in so many times. */
  chance(of: number): boolean {
    return this.roll(of) === 0
  }
}

/** Declares the tests. The store has a clock, and tells its clients. @param open a substrate of its own each time */
export function sharesLikeMemory(open: () => Substrate): void {
  for (const lapses of [false, true]) {
    it(`have the same verdicts as in memory and ${lapses ? 'stand alike, while some lapse' : 'messages'}`, () =>
      compare(open, { rounds: ROUNDS, steps: STEPS, lapses, hasClock: true }))
  }
}

/**
 * The same for a store that has no clock and tells nobody: nothing lapses, and a request comes twice only at once.
 *
 * @param rounds how many seeds are tried
 */
export function sharesLikeMemoryWithoutClock(open: () => Substrate, rounds: number = 2): void {
  it('have the same verdicts as in memory', () =>
    compare(open, { rounds, steps: FEW_STEPS, lapses: false, hasClock: false }))
}

interface Kind {
  readonly lapses: boolean
  readonly hasClock: boolean
  readonly steps: number
}

async function compare(open: () => Substrate, { rounds, ...kind }: Kind & { readonly rounds: number }): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const seed = Math.floor(Math.random() * 2 ** 32)
    try {
      await new Comparison(open(), seed, kind).run()
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
    }
  }
}

class Comparison {
  readonly #stores: Pair<Substrate>
  readonly #dice: Dice
  readonly #lapses: boolean
  readonly #hasClock: boolean
  readonly #steps: number
  readonly #counted = `${unique('counted')}#`
  readonly #told: Pair<(readonly [client: string, LeaseChange])[]> = [[], []]
  readonly #tickets: Ticket[] = []
  readonly #held = new Map<string, Pair<Holding>>()
  readonly #pins = new Map<string, string>()
  readonly #generations: (string | undefined)[] = [undefined]
  readonly #log: string[] = []
  readonly #sent: Sent[] = []
  readonly #startedMs = performance.now()
  #isOver = false
  #client = ''

  constructor(store: Substrate, seed: number, { lapses, hasClock, steps }: Kind) {
    this.#stores = [new MemorySubstrate(), store]
    this.#dice = new Dice(seed)
    this.#lapses = lapses
    this.#hasClock = hasClock
    this.#steps = steps
    if (!hasClock) return
    for (const [side, store] of this.#stores.entries()) {
      for (const client of CLIENTS) {
        store.watch?.((change) => this.#told[side]?.push([client, change]), client)
      }
    }
  }

  async run(): Promise<void> {
    const listeners = this.#hasClock ? CLIENTS.length : 0
    await until('all that listen', () => this.#told.every((told) => told.length === listeners))
    for (let turn = 0; turn < this.#steps && !this.#isOver; turn++) {
      this.#client = this.#dice.of(CLIENTS)
      if (this.#sent.length > 0 && this.#dice.chance(8))
        await this.#again(this.#dice.of(this.#sent.slice(this.#hasClock ? -12 : -1)))
      else {
        const make = this.#next()
        if (make !== undefined) await this.#compare({ make, client: this.#client, calls: await this.#callsNow() })
      }
    }
  }

  /** What was sent is late if anything was decided since; what is asked for once more is not. */
  async #again({ make, client, calls }: Sent): Promise<void> {
    this.#client = client
    const isCopy = !this.#hasClock || this.#dice.chance(2)
    // Redis remembers which pin was withdrawn last, and others only when.
    const op = make(0)
    if (!isCopy && op.kind === 'pin') return
    // A store without a clock knows it again, and in memory it gets another ticket.
    if (!this.#hasClock && op.kind === 'claim' && op.place === 0) return
    await this.#compare({ make, client, calls: isCopy ? calls : await this.#callsNow() }, isCopy ? 'copy' : 'again')
  }

  /** Each store has a time of its own. */
  async #callsNow(): Promise<Pair<Call>> {
    const callOf = async (store: Substrate): Promise<Call> => {
      const sentMs = await store.time?.(newCall({ client: this.#client }))
      if (sentMs === undefined) return newCall({ client: this.#client })
      return newCall({ client: this.#client, sentMs, notAfterMs: sentMs + LASTING_MS })
    }
    return [await callOf(this.#stores[0]), await callOf(this.#stores[1])]
  }

  async #compare(sent: Sent, how: 'first' | 'copy' | 'again' = 'first'): Promise<void> {
    const [memory, store] = this.#stores
    const { make, calls } = sent
    if (how === 'first') this.#sent.push(sent)
    const verdicts = [
      (await memory.apply([make(0)], calls[0]))[0] as Verdict,
      (await store.apply([make(1)], calls[1]))[0] as Verdict,
    ] as const
    // What has come late is remembered for so long at least, and perhaps for longer.
    this.#isOver = performance.now() - this.#startedMs > LONGEST_DEADLINE_MS
    if (this.#isOver) return
    const op = make(1)
    this.#log.push(
      `${how} ${this.#client} ${JSON.stringify(op, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value))}`,
    )
    const log = this.#log.slice(-12).join('\n')
    const places = [verdicts[0].ticket?.place ?? 0, verdicts[1].ticket?.place ?? 0] as const
    const isNew = places[0] > 0 && !this.#tickets.some((ticket) => ticket.places[0] === places[0])
    if (isNew && op.kind === 'claim') {
      this.#tickets.push({ client: this.#client, holder: op.holder, weight: op.share?.weight ?? 1, places })
    }
    expect(this.#verdictOf(verdicts[1], 1), log).to.deep.equal(this.#verdictOf(verdicts[0], 0))

    const [{ counted, holding }, { holding: other }] = verdicts
    if (counted !== undefined) this.#generations.push(counted.generation)
    if (op.kind === 'claim' && holding !== undefined && other !== undefined) this.#held.set(op.holder, [holding, other])
    if (op.kind === 'claim' && op.durationMs === 1) await sleep(5)
    const heard = (side: 0 | 1): string => {
      const words = this.#told[side].map(([client, change]) => `${client} ${this.#changeOf(change, side)}`)
      return words.toSorted().join('\n')
    }
    if (this.#hasClock && !this.#lapses) {
      for (let tries = 0; tries < MOST_TRIES && heard(0) !== heard(1); tries++) await sleep(2)
      expect(heard(1), log).to.equal(heard(0))
    }
    expect(sharesOf(await countedOf(store, this.#counted)), log).to.deep.equal(
      sharesOf(await countedOf(memory, this.#counted)),
    )
  }

  // ── operations ────────────────────────────────────────────────────────────────────────────────────────────────

  /** undefined: none that makes sense. */
  #next(): MakeOp | undefined {
    const dice = this.#dice
    const holder = dice.of(HOLDERS)
    const lease = this.#counted + holder
    const known = this.#held.get(holder)
    const ticket = this.#tickets.length > 0 ? dice.of(this.#tickets.slice(-4)) : undefined
    switch (dice.roll(12)) {
      case 0:
      case 1:
        if (known === undefined) return undefined
        return (side) => {
          const { fencingToken } = known[side]
          return { kind: 'release', lease, holder, fencingToken, nonce: undefined }
        }
      case 2: {
        if (known === undefined) return undefined
        const adoption = dice.chance(2) ? { from: known[0].nonce, nonce: this.#newNonce() } : undefined
        const more = {
          durationMs: LASTING_MS,
          adoption,
          value: dice.chance(2) ? unique('v') : undefined,
          seen: undefined,
        }
        return (side) => ({ kind: 'extend', lease, holder, fencingToken: known[side].fencingToken, ...more })
      }
      case 3:
        return () => ({ kind: 'expire', lease, lapsed: undefined })
      case 4: {
        const generation = this.#pins.get(holder)
        if (generation === undefined) {
          const fresh = unique('pin')
          if (!dice.chance(3)) return undefined
          this.#pins.set(holder, fresh)
          return () => ({ kind: 'pin', lease, entity: 'e', generation: fresh })
        }
        this.#pins.delete(holder)
        return () => ({ kind: 'unpin', lease, entity: 'e', generation })
      }
      case 5: {
        if (!dice.chance(3)) return undefined
        const capacity = dice.chance(5) ? undefined : dice.of([3, 4, 4, 4, 5])
        const [from, generation] = [dice.of(this.#generations.slice(-2)), unique('g')]
        return () => ({ kind: 'define', lease: this.#counted, capacity, from, generation })
      }
      case 6:
        if (ticket === undefined) return undefined
        this.#client = dice.chance(5) ? this.#client : ticket.client
        return (side) => ({ kind: 'leave', lease: this.#counted, place: ticket.places[side] })
      case 7:
        if (ticket === undefined || !dice.chance(3)) return undefined
        return (side) => ({ kind: 'passOver', lease: this.#counted, place: ticket.places[side] })
      default:
        return this.#claim(holder)
    }
  }

  #claim(anyHolder: string): MakeOp {
    const dice = this.#dice
    const mine = dice.chance(2) ? this.#tickets.filter(({ client }) => client === this.#client) : []
    const ticket = mine.length > 0 ? dice.of(mine) : undefined
    const waits = ticket !== undefined || dice.chance(2)
    const { holder } = ticket ?? { holder: anyHolder }
    const weight = ticket !== undefined && dice.chance(2) ? ticket.weight : 1 + dice.roll(3)
    const capacity = dice.chance(2) ? undefined : 4
    const passing = dice.chance(2) ? dice.roll(3) : 0
    const claim = {
      kind: 'claim',
      lease: this.#counted + holder,
      holder,
      durationMs: this.#lapses && dice.chance(3) ? 1 : LASTING_MS,
      nonce: this.#newNonce(),
      value: dice.chance(4) ? 'v' : undefined,
      lapsed: undefined,
      maxWaiters: ticket === undefined && waits && dice.chance(3) ? dice.roll(3) : undefined,
      share: { weight, capacity, passing, lapsed: new Map<string, string>() },
    } as const
    return (side) => ({ ...claim, place: waits ? (ticket?.places[side] ?? 0) : undefined })
  }

  #newNonce(): string {
    return `${this.#client}${unique('n')}`
  }

  // ── what the two stores say, in the same words ────────────────────────────────────────────────────────────────

  #verdictOf({ outcome, holding, ticket, told, isFull, counted }: Verdict, side: number): object {
    return {
      outcome,
      holding: holdingOf(holding),
      ticket: this.#nameOf(ticket?.place, side),
      ahead: ticket?.ahead,
      // Of a lapse tells the one that comes across it first. In Redis that may be a claim of another lease.
      told: this.#lapses || !this.#hasClock ? '' : this.#nameOf(told, side),
      isFull,
      counted: counted && { ...definitionOf(counted), isShown: outcome === 'refused' && counted.shares.size > 0 },
    }
  }

  #changeOf(change: LeaseChange, side: number): string {
    if (change.kind === 'resync') return change.kind
    const taken = change.kind === 'taken' ? `by ${this.#nameOf(change.place, side)}` : ''
    const to =
      'to' in change && change.to !== undefined ? `to ${this.#nameOf(change.to.place, side)} ${change.to.ahead}` : ''
    return `${change.kind} ${change.lease} ${taken} ${to}`
  }

  #nameOf(place: number | undefined, side: number): string {
    if (place === undefined) return 'none'
    return `ticket ${this.#tickets.findIndex(({ places }) => places[side] === place)}`
  }
}

function holdingOf(holding: Holding | undefined): object | undefined {
  if (holding === undefined) return undefined
  const { holder, nonce, value, pinned, weight } = holding
  return { holder, nonce, value, pinned, weight }
}

function definitionOf({ capacity, generation }: Counted): object {
  return { capacity, generation }
}

function sharesOf(counted: Counted): object {
  const shares = [...counted.shares].map(([share, holding]) => [share, holdingOf(holding)] as const)
  return { ...definitionOf(counted), shares: Object.fromEntries(shares) }
}

function countedOf(store: Substrate, name: string): Promise<Counted> {
  return store.counted?.(name, newCall()) ?? expect.fail('the store keeps no counted leases')
}
