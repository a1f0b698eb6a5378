/** Random operations on shares, one after the other: what Redis answers and publishes is what the memory store does. */
import { expect } from 'chai'
import {
  MemorySubstrate,
  type Call,
  type Counted,
  type Holding,
  type LeaseChange,
  type Op,
  type Substrate,
  type Verdict,
} from 'lease-core'
import { newCall, sleep, unique } from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

const HOLDERS = ['a', 'b', 'c', 'd', 'e']
const CLIENTS = ['client-one--', 'client-two--', 'client-three']
const STEPS = 250
/** Of a wait for the same messages. */
const MOST_TRIES = 300

/** Numbers that the seed decides. */
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
  chance(of: number): boolean {
    return this.roll(of) === 0
  }
}

/** A ticket, as each of the two stores calls it. */
interface Ticket {
  readonly client: string
  readonly holder: string
  readonly weight: number
  readonly places: Pair<number>
}

type Pair<T> = readonly [memory: T, redis: T]

/** The one and the other store, and what each has told. */
class Two {
  readonly stores: Pair<Substrate>
  readonly told: Pair<string[]> = [[], []]
  readonly tickets: Ticket[] = []

  constructor(stores: Pair<Substrate>) {
    this.stores = stores
    for (const [side, store] of stores.entries()) {
      for (const client of CLIENTS) {
        store.watch?.((change) => this.told[side]?.push(`${client} ${this.#wordsOf(change, side)}`), client)
      }
    }
  }

  nameOf(place: number | undefined, side: number): string {
    if (place === undefined || place === 0) return 'none'
    const index = this.tickets.findIndex(({ places }) => places[side] === place)
    return index < 0 ? 'unknown' : `ticket ${index}`
  }

  #wordsOf(change: LeaseChange, side: number): string {
    if (change.kind === 'resync') return 'resync'
    const to = 'to' in change ? change.to : undefined
    const place = change.kind === 'taken' ? this.nameOf(change.place, side) : ''
    return `${change.kind} ${change.lease} ${place} ${this.nameOf(to?.place, side)} ${to?.ahead}`
  }

  verdict({ outcome, holding, ticket, told, isFull, counted }: Verdict, side: number): object {
    return {
      outcome,
      holding: wordsOf(holding),
      ahead: ticket?.ahead,
      ticket: this.nameOf(ticket?.place, side),
      told: this.nameOf(told, side),
      isFull,
      counted: counted && { ...definitionOf(counted), stands: outcome === 'refused' && counted.shares.size > 0 },
    }
  }
}

function wordsOf(holding: Holding | undefined): object | undefined {
  if (holding === undefined) return undefined
  const { holder, nonce, value, pinned, weight } = holding
  return { holder, nonce, value, pinned, weight }
}

function definitionOf({ capacity, generation }: Counted): object {
  return { capacity, generation }
}

for (const target of redisTargets('server')) {
  describe(`shares, on ${target.name} and in memory`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    for (const lapses of [false, true]) {
      it(`have the same verdicts and ${lapses ? 'shares, while some lapse' : 'messages'}`, async () => {
        for (let round = 0; round < 4; round++) {
          const seed = Math.floor(Math.random() * 2 ** 32)
          try {
            await compare(seed, lapses)
          } catch (error) {
            throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
          }
        }
      })
    }

    async function compare(seed: number, lapses: boolean): Promise<void> {
      const dice = new Dice(seed)
      const counted = `${unique('counted')}#`
      const redis = setting.substrate({ namespace: unique('model') })
      const two = new Two([new MemorySubstrate(), redis])
      await until('all that listen', () => two.told.every((told) => told.length === CLIENTS.length))
      const held = new Map<string, Pair<Holding>>()
      const pins = new Map<string, string>()
      let generations: (string | undefined)[] = [undefined]
      const log: string[] = []

      const step = (): ((side: 0 | 1) => Op | undefined) | undefined => {
        const holder = dice.of(HOLDERS)
        const lease = counted + holder
        const known = held.get(holder)
        switch (dice.roll(12)) {
          case 0:
          case 1:
          case 2:
          case 3: {
            const mine = dice.chance(2) ? two.tickets.filter((ticket) => ticket.client === client) : []
            const ticket = mine.length > 0 ? dice.of(mine) : undefined
            const isNew = ticket === undefined && dice.chance(2)
            const weight = ticket?.weight ?? 1 + dice.roll(3)
            const maxWaiters = isNew && dice.chance(3) ? dice.roll(3) : undefined
            const share = {
              weight,
              capacity: dice.chance(2) ? undefined : 4,
              passing: ticket === undefined ? 0 : dice.roll(3),
              lapsed: new Map<string, string>(),
            }
            const durationMs = lapses && dice.chance(3) ? 1 : LASTING_MS
            const nonce = `${client}${unique('n')}`
            const value = dice.chance(4) ? 'v' : undefined
            const asked = ticket?.holder ?? holder
            asking = { holder: asked, weight, ticket }
            return (side) => ({
              kind: 'claim',
              lease: counted + asked,
              holder: asked,
              durationMs,
              nonce,
              value,
              lapsed: undefined,
              place: ticket?.places[side] ?? (isNew ? 0 : undefined),
              maxWaiters,
              share,
            })
          }
          case 4:
          case 5:
            if (known === undefined) return undefined
            return (side) => ({
              kind: 'release',
              lease,
              holder,
              fencingToken: known[side].fencingToken,
              nonce: undefined,
            })
          case 6: {
            if (known === undefined) return undefined
            const adoption = dice.chance(2) ? { from: known[0].nonce, nonce: `${client}${unique('n')}` } : undefined
            const value = dice.chance(2) ? unique('v') : undefined
            return (side) => {
              const { fencingToken } = known[side]
              return {
                kind: 'extend',
                lease,
                holder,
                fencingToken,
                adoption,
                durationMs: LASTING_MS,
                value,
                seen: undefined,
              }
            }
          }
          case 7:
            return () => ({ kind: 'expire', lease, lapsed: undefined })
          case 8: {
            const generation = pins.get(holder)
            if (generation === undefined) {
              const fresh = unique('pin')
              if (!dice.chance(3)) return undefined
              pins.set(holder, fresh)
              return () => ({ kind: 'pin', lease, entity: 'e', generation: fresh })
            }
            pins.delete(holder)
            return () => ({ kind: 'unpin', lease, entity: 'e', generation })
          }
          case 9: {
            if (!dice.chance(3)) return undefined
            const capacity = dice.chance(5) ? undefined : dice.of([3, 4, 4, 4, 5])
            const [from, generation] = [dice.of(generations.slice(-2)), unique('g')]
            return () => ({ kind: 'define', lease: counted, capacity, from, generation })
          }
          case 10: {
            const ticket = two.tickets.length > 0 ? dice.of(two.tickets.slice(-4)) : undefined
            if (ticket === undefined) return undefined
            client = dice.chance(5) ? client : ticket.client
            return (side) => ({ kind: 'leave', lease: counted, place: ticket.places[side] })
          }
          default: {
            const ticket = two.tickets.length > 0 ? dice.of(two.tickets.slice(-4)) : undefined
            if (ticket === undefined || !dice.chance(3)) return undefined
            return (side) => ({ kind: 'passOver', lease: counted, place: ticket.places[side] })
          }
        }
      }

      let client: string
      let asking: { readonly holder: string; readonly weight: number; readonly ticket: Ticket | undefined } | undefined
      for (let turn = 0; turn < STEPS; turn++) {
        client = dice.of(CLIENTS)
        asking = undefined
        const make = step()
        if (make === undefined) continue
        const call = (): Call => newCall({ client })
        const verdicts = (await Promise.all(
          two.stores.map(async (store, side) => (await store.apply([make(side as 0 | 1) as Op], call()))[0]),
        )) as unknown as Pair<Verdict>
        const op = make(1) as Op
        log.push(
          `${client} ${JSON.stringify(op, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value))}`,
        )
        const places = verdicts.map(({ ticket }) => ticket?.place ?? 0) as unknown as Pair<number>
        if (asking !== undefined && asking.ticket === undefined && places[0] > 0) {
          two.tickets.push({ client, holder: asking.holder, weight: asking.weight, places })
        }
        // Of a lapse is told when somebody comes across it first, which in Redis a claim of another lease may do.
        const [inMemory, inRedis] = verdicts.map((verdict, side) =>
          two.verdict(lapses ? { ...verdict, told: undefined } : verdict, side),
        )
        expect(inRedis, log.slice(-12).join('\n')).to.deep.equal(inMemory)
        const [first, second] = verdicts
        if (first.counted !== undefined) generations = [...generations, first.counted.generation]
        if (asking !== undefined && first.holding !== undefined && second.holding !== undefined) {
          held.set(asking.holder, [first.holding, second.holding])
        }
        if (lapses) {
          if (op.kind === 'claim' && op.durationMs === 1) await sleep(5)
        } else {
          const heard = (side: 0 | 1): string => JSON.stringify(two.told[side].toSorted(), undefined, 1)
          for (let tries = 0; tries < MOST_TRIES && heard(0) !== heard(1); tries++) await sleep(2)
          expect(heard(1), log.slice(-12).join('\n')).to.equal(heard(0))
        }
        const [mine, other] = await Promise.all(two.stores.map((store) => store.counted?.(counted, call())))
        if (mine === undefined || other === undefined) expect.fail('no counted leases')
        const sharesOf = ({ shares }: Counted): object =>
          Object.fromEntries([...shares].map(([share, holding]) => [share, wordsOf(holding)]))
        expect({ ...definitionOf(other), ...sharesOf(other) }, log.slice(-12).join('\n')).to.deep.equal({
          ...definitionOf(mine),
          ...sharesOf(mine),
        })
      }
    }
  })
}
