/** Counted leases on a real etcd: what each operation costs, and what the store must not be notified twice, forget or leave behind. */
import { expect } from 'chai'
import { Manager, type Hold, type LeaseChange } from 'lease-core'
import { INTEREST_MS, SubstrateClient, type ClaimOp, type DefineOp, type Op, type Verdict } from 'lease-core/adapter'
import { etcdTargets } from 'lease-servers'
import { failFast, type EtcdSubstrate } from 'lease-etcd'
import {
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  noneUnheard,
  pin,
  readOne,
  release,
  settle,
  sleep,
  together,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

const LONG = 1_200_000

interface ShareOptions extends Partial<Omit<ClaimOp, 'share'>> {
  readonly weight?: number
  readonly capacity?: number | undefined
  readonly passing?: number
  readonly lapsedShares?: Iterable<readonly [share: string, version: string | undefined]>
}

/** Of the counted lease `n#`, unless the name says another. */
function share(
  holder: string,
  { weight = 1, capacity, passing = 0, lapsedShares = [], ...more }: ShareOptions = {},
  name: string = 'n',
): ClaimOp {
  const lapsed = new Map([...lapsedShares].map(([lease, version]) => [lease, version ?? '']))
  return claim(`${name}#${holder}`, holder, LONG, { ...more, share: { weight, capacity, passing, lapsed } })
}

function define(capacity: number | undefined, from: string | undefined, generation = unique('g')): DefineOp {
  return { kind: 'define', lease: 'n#', capacity, from, generation }
}

/** A Buffer, as JSON has it. */
function isBytes(
  value: { readonly type?: unknown; readonly data?: unknown } | null,
): value is { readonly data: number[] } {
  return value?.type === 'Buffer' && Array.isArray(value.data)
}

/** Counts what passes a driver. */
interface Counted {
  txns: number
  ranges: number
  messages: number
  /** Keys in the answers to reads. */
  keys: number
}

for (const target of etcdTargets(1)) {
  describe(`counted leases, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const substrate = (namespace: string = unique('ns')): EtcdSubstrate =>
      setting.substrate({ namespace, etcd: setting.newEtcd({ grpcOptions: {} }) })

    const send = async (by: EtcdSubstrate, op: Op, client = 'client-other'): Promise<Verdict> =>
      (await by.apply([op], newCall({ client, timeoutMs: 60_000 })))[0] ?? expect.fail()
    const outcomeOf = async (by: EtcdSubstrate, op: Op): Promise<string> => (await settle(by, op)).outcome
    const weights = async (by: EtcdSubstrate): Promise<number> => {
      let sum = 0
      for (const { weight = 0 } of (await by.counted('n#', newCall({ timeoutMs: 60_000 }))).shares.values())
        sum += weight
      return sum
    }

    /** A substrate whose requests and messages are counted. */
    const counting = (namespace: string): { readonly counted: Counted; readonly by: EtcdSubstrate } => {
      const counted: Counted = { txns: 0, ranges: 0, messages: 0, keys: 0 }
      const etcd = setting.newEtcd({ ...failFast(), grpcOptions: {} })
      const { kv, watchClient } = etcd
      const txn = kv.txn.bind(kv)
      kv.txn = async (...args) => {
        counted.txns++
        const answer = await txn(...args)
        const keysIn = (responses: readonly (typeof answer.responses)[number][]): number =>
          responses.reduce(
            (sum, { response_range, response_txn }) =>
              sum + (response_range?.kvs.length ?? 0) + keysIn(response_txn?.responses ?? []),
            0,
          )
        counted.keys += keysIn(answer.responses)
        return answer
      }
      const range = kv.range.bind(kv)
      kv.range = async (...args) => {
        counted.ranges++
        return range(...args)
      }
      const watch = watchClient.watch.bind(watchClient)
      watchClient.watch = async (...args) => {
        const stream = await watch(...args)
        stream.on('data', ({ events }) => {
          if (events.length > 0) counted.messages++
        })
        return stream
      }
      return { counted, by: setting.substrate({ namespace, etcd }) }
    }

    describe('cost', () => {
      it('one transaction for each claim of a process that is alone, and one for each release, extension and refusal', async () => {
        const { counted, by } = counting(unique('ns'))
        await by.read(['l'], newCall()) // asks for the layout
        counted.txns = counted.ranges = 0
        const costs: number[] = []
        const cost = async (op: Op): Promise<Verdict> => {
          counted.txns = 0
          const verdict = await settle(by, op)
          costs.push(counted.txns)
          return verdict
        }
        const first = (await cost(share('a', { capacity: 2 }))).holding
        const second = (await cost(share('b', { capacity: 2 }))).holding
        expect((await cost(share('c', { capacity: 2 }))).outcome).to.equal('refused')
        await cost(extend('n#a', 'a', LONG, { seen: first }))
        await cost(release('n#b', 'b', { fencingToken: second?.fencingToken, seen: second }))
        expect((await cost(share('c', { capacity: 2 }))).outcome).to.equal('granted')
        expect(costs).to.deep.equal([1, 1, 1, 1, 1, 1])
        expect(counted.ranges).to.equal(0)
      })

      it('two transactions for a claim where another process was granted the last share', async () => {
        const namespace = unique('ns')
        const { counted, by } = counting(namespace)
        await grant(by, share('a', { capacity: 9 }))
        await grant(substrate(namespace), share('b', { capacity: 9 }))
        counted.txns = counted.ranges = 0
        await grant(by, share('c', { capacity: 9 }))
        expect([counted.txns, counted.ranges]).to.deep.equal([2, 0])
      })

      it('no more than 64 shares are read to be granted one more, and all to be refused', async () => {
        const namespace = unique('ns')
        const many = substrate(namespace)
        await settle(many, define(301, undefined))
        for (let index = 0; index < 300; index++) await grant(many, share(`h${index}`))
        const { counted, by } = counting(namespace)
        await by.read(['l'], newCall())
        counted.txns = counted.ranges = counted.keys = 0
        await grant(by, share('last'))
        expect([counted.txns, counted.ranges]).to.deep.equal([2, 0])
        expect(counted.keys).to.be.at.most(66)
        const refusal = await settle(by, share('more'))
        expect([refusal.outcome, refusal.counted?.shares.size]).to.deep.equal(['refused', 301])
      })

      for (const waiters of [3, 16]) {
        it(`a hand-over takes at most four requests and six messages with ${waiters} that wait for three shares`, async () => {
          const namespace = unique('ns')
          const opened = Array.from({ length: waiters + 3 }, () => {
            const { counted, by } = counting(namespace)
            const client = new SubstrateClient({ substrate: by, requestTimeout: { seconds: 30 } })
            return { counted, client, manager: new Manager({ client }) }
          })
          const total = (what: keyof Counted): number => opened.reduce((sum, { counted }) => sum + counted[what], 0)
          const options = { duration: LONG, wait: true, share: { capacity: 3 } }
          const held: { readonly manager: Manager; readonly hold: Hold }[] = []
          const queue: { readonly manager: Manager; readonly hold: Promise<Hold> }[] = []
          let holders = 0
          const enter = async (manager: Manager): Promise<void> => {
            let stop = (): void => {}
            const waiting = new Promise<void>((resolve) => {
              stop = manager.events.subscribe(({ type }) => type === 'waiting' && resolve())
            })
            const hold = manager.hold('n', `h${++holders}`, options)
            hold.catch(() => {}) // those who wait in the end
            queue.push({ manager, hold })
            await waiting
            stop()
          }
          for (const { manager } of opened.slice(0, 3)) {
            held.push({ manager, hold: await manager.hold('n', `h${++holders}`, options) })
          }
          for (const { manager } of opened.slice(3)) await enter(manager)
          await sleep(200)
          const costs: number[] = []
          const messages: number[] = []
          for (let times = 0; times < 15; times++) {
            const [requestsBefore, messagesBefore] = [total('txns') + total('ranges'), total('messages')]
            const former = held.shift() ?? expect.fail()
            await former.hold.release()
            const granted = await Promise.race(queue.map(async ({ hold }, index) => ({ index, hold: await hold })))
            const [next] = queue.splice(granted.index, 1)
            held.push({ manager: next?.manager ?? expect.fail(), hold: granted.hold })
            await enter(former.manager)
            await sleep(20)
            costs.push(total('txns') + total('ranges') - requestsBefore)
            messages.push(total('messages') - messagesBefore)
          }
          const median = (numbers: number[]): number => numbers.toSorted((one, other) => one - other)[7] ?? Number.NaN
          // On a busy machine somebody stands in now and then.
          expect(median(costs)).to.be.at.most(4)
          expect(median(messages)).to.be.at.most(6)
          for (const { manager, client } of opened) {
            await manager.stop()
            await client.close()
          }
        })
      }
    })

    describe('the capacity', () => {
      together({
        'is kept by one that has read nothing, whatever more than 64 shares weigh': async () => {
          const namespace = unique('ns')
          const first = substrate(namespace)
          for (let index = 0; index < 70; index++) await grant(first, share(`h${index}`, { capacity: 76 }))
          await grant(first, share('heavy', { weight: 5, capacity: 76 }))
          expect(await outcomeOf(substrate(namespace), share('x', { weight: 2, capacity: 76 }))).to.equal('refused')
          expect(await outcomeOf(substrate(namespace), share('y', { capacity: 76 }))).to.equal('granted')
          expect(await outcomeOf(substrate(namespace), share('z', { capacity: 76 }))).to.equal('refused')
          expect(await weights(first)).to.equal(76)
        },

        'is kept where the gate was undefined, or has gone, and more than 64 shares have stayed': async () => {
          const namespace = unique('ns')
          const first = substrate(namespace)
          await settle(first, define(76, undefined, 'g1'))
          await grant(first, share('heavy', { weight: 5 }))
          for (let index = 0; index < 70; index++) await grant(first, share(`h${index}`))
          expect(await outcomeOf(first, define(undefined, 'g1'))).to.equal('granted')
          expect(await outcomeOf(substrate(namespace), share('x', { weight: 2, capacity: 76 }))).to.equal('refused')
          await setting.etcd.delete().key(`lease/${namespace}/g/n#`).exec()
          expect(await outcomeOf(substrate(namespace), share('x', { weight: 2, capacity: 76 }))).to.equal('refused')
          expect(await outcomeOf(substrate(namespace), share('y', { capacity: 76 }))).to.equal('granted')
          expect(await outcomeOf(substrate(namespace), share('z', { capacity: 76 }))).to.equal('refused')
        },

        'is kept by one that knows less than was granted since': async () => {
          const namespace = unique('ns')
          const [first, second] = [substrate(namespace), substrate(namespace)]
          await grant(first, share('a', { capacity: 3 }))
          await grant(second, share('b', { weight: 2, capacity: 3 }))
          expect(await outcomeOf(first, share('c', { capacity: 3 }))).to.equal('refused')
        },

        'is kept of what its holder has extended, adopted and given a value': async () => {
          const by = substrate()
          const { fencingToken, nonce } = await grant(by, share('a', { weight: 2, capacity: 3 }))
          const adoption = { from: nonce, nonce: unique('nonce') }
          const after = await grant(by, extend('n#a', 'a', 2 * LONG, { fencingToken, adoption, value: 'v' }))
          expect([after.weight, (await readOne(by, 'n#a'))?.weight]).to.deep.equal([2, 2])
          expect((await grant(by, extend('n#a', 'a', LONG, { seen: after }))).weight).to.equal(2)
          expect(await outcomeOf(by, share('b', { weight: 2, capacity: 3 }))).to.equal('refused')
        },

        'counts no share twice that was released by one, and seen to go by another': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await settle(by, define(4, undefined))
          const held = await grant(by, share('a', { weight: 2 }))
          await grant(by, share('b', { weight: 2 }))
          // This one hears of each share that goes.
          by.watch?.(() => {}, 'client-wait1')
          const { ticket } = await send(by, share('w', { weight: 4, place: 0 }), 'client-wait1')
          await settle(by, release('n#a', 'a', { fencingToken: held.fencingToken, seen: held }))
          await sleep(300)
          await send(by, { kind: 'leave', lease: 'n#', place: ticket?.place }, 'client-wait1')
          expect(await outcomeOf(by, share('c', { weight: 3 }))).to.equal('refused')
          expect(await outcomeOf(by, share('d', { weight: 2 }))).to.equal('granted')
        },
      })
    })

    describe('shares that were observed to have lapsed', () => {
      together({
        'make room as they were observed, and not otherwise': async () => {
          const by = substrate()
          const a = await grant(by, share('a', { capacity: 2 }))
          const b = await grant(by, share('b', { capacity: 2 }))
          const extended = await grant(by, extend('n#b', 'b', LONG, { seen: b }))
          const lapsedShares = [['n#b', b.version]] as const
          expect(await outcomeOf(by, share('c', { capacity: 2, lapsedShares }))).to.equal('refused')
          await settle(by, pin('n#b', 'e'))
          const pinned = await readOne(by, 'n#b')
          expect(pinned?.version).not.to.equal(extended.version)
          expect(await outcomeOf(by, share('c', { capacity: 2, lapsedShares: [['n#b', pinned?.version]] }))).to.equal(
            'refused',
          )
          const { version } = a
          expect(await outcomeOf(by, share('c', { capacity: 2, lapsedShares: [['n#a', version]] }))).to.equal('granted')
          expect(await readOne(by, 'n#a')).to.equal(undefined)
        },

        'are removed however many they are, for one that needs the room of all': async () => {
          const by = substrate()
          await settle(by, define(250, undefined))
          const lapsedShares: [string, string | undefined][] = []
          for (let index = 0; index < 250; index++) {
            lapsedShares.push([`n#h${index}`, (await grant(by, share(`h${index}`))).version])
          }
          expect(await outcomeOf(by, share('writer', { weight: 250, lapsedShares }))).to.equal('granted')
          expect(await weights(by)).to.equal(250)
        },

        'are taken over by their own holder, with a larger fencing token': async () => {
          const by = substrate()
          const { version, fencingToken } = await grant(by, share('a', { capacity: 1 }))
          const again = await grant(by, share('a', { capacity: 1, lapsed: version }))
          expect(again.fencingToken > fencingToken).to.equal(true)
          const third = await grant(by, share('a', { capacity: 1, lapsedShares: [['n#a', again.version]] }))
          expect(third.fencingToken > again.fencingToken).to.equal(true)
        },

        'are removed by no refused claim': async () => {
          const by = substrate()
          const { version } = await grant(by, share('a', { capacity: 3 }))
          await grant(by, share('b', { weight: 2, capacity: 3 }))
          const lapsedShares = [['n#a', version]] as const
          expect(await outcomeOf(by, share('c', { weight: 3, capacity: 3, lapsedShares }))).to.equal('refused')
          expect((await readOne(by, 'n#a'))?.version).to.equal(version)
        },
      })
    })

    describe('operations that travel together', () => {
      together({
        'are granted beside others of the same counted lease': async () => {
          const by = substrate()
          await settle(by, define(5, undefined, 'g1'))
          const b = await grant(by, share('b'))
          const c = await grant(by, share('c'))
          const lapsed = await grant(by, share('d'))
          const verdicts = await by.apply(
            [
              share('a', { weight: 3, lapsedShares: [['n#d', lapsed.version]] }),
              release('n#b', 'b', { fencingToken: b.fencingToken, seen: b }),
              extend('n#c', 'c', LONG, { seen: c }),
              // Observed to have lapsed by the claim, and extended all the same.
              extend('n#d', 'd', LONG, { seen: lapsed }),
              define(6, 'g1', 'g2'),
              share('a', { capacity: 1 }, 'm'),
              claim('plain', 'x', LONG),
            ],
            newCall({ timeoutMs: 60_000 }),
          )
          const outcomes = verdicts.map(({ outcome }) => outcome)
          expect(outcomes).to.deep.equal(['refused', ...Array.from({ length: 6 }, () => 'granted')])
          expect(await outcomeOf(by, share('a', { weight: 3 }))).to.equal('granted')
          expect(await weights(by)).to.equal(5)
        },

        'are as many as the server takes, also claims of shares that have to remove others': async () => {
          const by = substrate()
          const lapsedShares: [string, string | undefined][] = []
          for (let index = 0; index < 40; index++) {
            lapsedShares.push([`n#h${index}`, (await grant(by, share(`h${index}`, { capacity: 40 }))).version])
          }
          const ops: Op[] = Array.from({ length: 119 }, (_, index) => share('a', { capacity: 1 }, `m${index}`))
          const writer = share('w', { weight: 40, capacity: 40, lapsedShares })
          const verdicts = await by.apply([...ops, writer], newCall({ timeoutMs: 60_000 }))
          expect(new Set(verdicts.map(({ outcome, cause }) => cause ?? outcome))).to.deep.equal(new Set(['granted']))
          // The second time they are all refused, and read what stands.
          const again = await by.apply(
            [...ops.map((op) => ({ ...op, lease: op.lease.replace('#a', '#b') })), writer] as Op[],
            newCall({ timeoutMs: 60_000 }),
          )
          expect(again.filter(({ outcome }) => outcome === 'refused')).to.have.lengthOf(119)
        },
      })
    })

    it('shares that are too large to be read beside others are all read', async () => {
      const namespace = unique('ns')
      const by = substrate(namespace)
      const names = Array.from({ length: 20 }, (_, index) => `m${index}`)
      const value = 'x'.repeat(4_000)
      for (let index = 0; index < 64; index++) {
        const ops = names.map((name) => share(`h${index}`, { capacity: 64, value }, name))
        await by.apply(ops, newCall({ timeoutMs: 60_000 }))
      }
      const one = substrate(namespace)
      const verdicts = await one.apply(
        names.map((name) => share('x', { capacity: 64 }, name)),
        newCall({ timeoutMs: 60_000 }),
      )
      const found = verdicts.map(({ outcome, cause, counted }) => cause ?? [outcome, counted?.shares.size])
      expect(found).to.deep.equal(names.map(() => ['refused', 64]))
    })

    describe('a read whose history is compacted before its next page begins anew', () => {
      /** A substrate that so many pages fail, since history is compacted before each is read. */
      const compacting = (
        namespace: string,
        pages: number,
      ): { readonly by: EtcdSubstrate; readonly failed: () => number } => {
        const etcd = setting.newEtcd({ ...failFast(), grpcOptions: {} })
        const range = etcd.kv.range.bind(etcd.kv)
        let failed = 0
        etcd.kv.range = async (...args) => {
          if (failed < pages && Number(args[0].revision) > 0) {
            failed++
            const { header } = await setting.etcd.put(unique('k')).value('x')
            await setting.etcd.kv.compact({ revision: header.revision })
          }
          return await range(...args)
        }
        return { by: setting.substrate({ namespace, etcd }), failed: () => failed }
      }
      const full = async (namespace: string): Promise<void> => {
        const by = substrate(namespace)
        await settle(by, define(200, undefined, 'g1'))
        for (let index = 0; index < 100; index++) await grant(by, share(`h${index}`, { weight: 2 }))
      }

      together({
        'of all shares': async () => {
          const namespace = unique('ns')
          await full(namespace)
          const { by, failed } = compacting(namespace, 2)
          expect(await weights(by)).to.equal(200)
          expect(failed()).to.equal(2)
        },

        'of a claim that is refused': async () => {
          const namespace = unique('ns')
          await full(namespace)
          const { by, failed } = compacting(namespace, 2)
          const { outcome, cause, counted } = await send(by, share('x'))
          expect([cause ?? outcome, counted?.shares.size]).to.deep.equal(['refused', 100])
          expect(failed()).to.equal(2)
        },

        'of a definition': async () => {
          const namespace = unique('ns')
          await full(namespace)
          const { by, failed } = compacting(namespace, 2)
          const { outcome, cause, counted } = await send(by, define(201, 'g1', 'g2'))
          expect([cause ?? outcome, counted?.capacity, counted?.shares.size]).to.deep.equal(['granted', 201, 100])
          expect(failed()).to.equal(2)
        },

        'of the whole namespace': async () => {
          const namespace = unique('ns')
          const plain = Array.from({ length: 1_001 }, (_, index) => claim(`l${index}`, 'a', LONG))
          await substrate(namespace).apply(plain, newCall({ timeoutMs: 60_000 }))
          const { by, failed } = compacting(namespace, 2)
          const found = await by.read(undefined, newCall({ timeoutMs: 60_000 }))
          expect(found.size).to.equal(1_001)
          expect(failed()).to.equal(2)
        },
      })
    })

    /** Hears what this client is notified, once it is connected. */
    const hearing = async (by: EtcdSubstrate, client: string): Promise<LeaseChange[]> => {
      const heard: LeaseChange[] = []
      by.watch?.((change) => heard.push(change), client)
      await eventually(() => heard.length >= 1)
      return heard
    }
    /** A substrate whose process dies whenever it is about to notify somebody. */
    const mute = (namespace: string): EtcdSubstrate => {
      const etcd = setting.newEtcd({ grpcOptions: {} })
      const txn = etcd.kv.txn.bind(etcd.kv)
      etcd.kv.txn = async (...args) => {
        const sent = JSON.stringify(args[0], (_, value) => (isBytes(value) ? String(Buffer.from(value.data)) : value))
        if (sent.includes('vacated')) throw new Error('it has died')
        return await txn(...args)
      }
      return setting.substrate({ namespace, etcd })
    }
    const enter = async (by: EtcdSubstrate, client: string, options: ShareOptions): Promise<number> => {
      const { ticket } = await send(by, share(client, { ...options, place: 0 }), client)
      return ticket?.place ?? expect.fail()
    }
    const ticketsIn = async (namespace: string): Promise<number> =>
      Number((await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()).count)
    const calls = (heard: readonly LeaseChange[], place: number): number[] =>
      heard.flatMap((it) => (it.kind === 'vacated' && it.to?.place === place ? [it.to.ahead] : []))

    /** Until this is among what it was notified; or until its watch began anew, because another test has compacted what it should have heard. */
    const hears = (heard: readonly LeaseChange[], place: number, isTold: (aheads: readonly number[]) => boolean) =>
      eventually(() => isTold(calls(heard, place)) || heard.filter(({ kind }) => kind === 'resync').length > 1)

    describe('those who wait for a share', () => {
      together({
        'hear of a vacancy that only a larger capacity has made enough, though that was not enough by itself':
          async () => {
            const by = substrate()
            const heard = await hearing(by, 'client-wait1')
            await settle(by, define(4, undefined, 'g1'))
            const a = await grant(by, share('a', { weight: 1 }))
            await grant(by, share('b', { weight: 3 }))
            await settle(by, define(5, 'g1', 'g2'))
            await grant(by, share('c'))
            const place = await enter(by, 'client-wait1', { weight: 2 })
            await settle(by, define(6, 'g2', 'g3'))
            await sleep(200)
            expect(calls(heard, place)).to.deep.equal([])
            await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
            await hears(heard, place, (aheads) => aheads.includes(0))
          },

        'hear of room that one ahead leaves which goes': async () => {
          const by = substrate()
          const heard = await hearing(by, 'client-wait2')
          await grant(by, share('a', { weight: 3, capacity: 4 }))
          const first = await enter(by, 'client-wait1', { weight: 4, capacity: 4 })
          const place = await enter(by, 'client-wait2', { weight: 1, capacity: 4 })
          expect((await send(by, { kind: 'leave', lease: 'n#', place: first }, 'client-wait1')).told).to.equal(place)
          await hears(heard, place, (aheads) => aheads.includes(0))
        },

        'hear nothing where one ahead goes, and there is no room': async () => {
          const by = substrate()
          const heard = await hearing(by, 'client-wait2')
          await grant(by, share('a', { weight: 4, capacity: 4 }))
          const first = await enter(by, 'client-wait1', { weight: 4, capacity: 4 })
          const place = await enter(by, 'client-wait2', { weight: 1, capacity: 4 })
          expect((await send(by, { kind: 'leave', lease: 'n#', place: first }, 'client-wait1')).told).to.equal(
            undefined,
          )
          await sleep(200)
          expect(calls(heard, place)).to.deep.equal([])
        },

        'hear of the room behind one ahead whose ticket has ended by itself': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          const heard = await hearing(by, 'client-wait2')
          await grant(by, share('a', { weight: 2, capacity: 4 }))
          await enter(by, 'client-wait1', { weight: 4, capacity: 4 })
          const [dead] = (await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()).kvs
          const place = await enter(by, 'client-wait2', { weight: 1, capacity: 4 })
          await setting.etcd
            .delete()
            .key(dead?.key ?? expect.fail())
            .exec()
          await hears(heard, place, (aheads) => aheads.includes(0))
        },

        'hear of the room that a grant has left whose process tells nobody': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          const heard = await hearing(by, 'client-wait2')
          const a = await grant(by, share('a', { weight: 4, capacity: 4 }))
          const dying = mute(namespace)
          const first = await enter(dying, 'client-wait1', { weight: 1, capacity: 4 })
          const place = await enter(by, 'client-wait2', { weight: 2, capacity: 4 })
          await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
          const again = share('client-wait1', { weight: 1, capacity: 4, place: first })
          expect((await send(dying, again, 'client-wait1')).outcome).to.equal('granted')
          await hears(heard, place, (aheads) => aheads.includes(0))
        },

        'hear of the room that a larger capacity has made whose process tells nobody': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          const heard = await hearing(by, 'client-wait1')
          await settle(by, define(1, undefined, 'g1'))
          await grant(by, share('a'))
          const place = await enter(by, 'client-wait1', {})
          expect(await outcomeOf(mute(namespace), define(2, 'g1'))).to.equal('granted')
          await hears(heard, place, (aheads) => aheads.includes(0))
        },

        'hear of the room that one ahead leaves which goes, and whose process tells nobody': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          const heard = await hearing(by, 'client-wait2')
          await grant(by, share('a', { weight: 3, capacity: 4 }))
          const dying = mute(namespace)
          const first = await enter(dying, 'client-wait1', { weight: 4, capacity: 4 })
          const place = await enter(by, 'client-wait2', { weight: 1, capacity: 4 })
          await send(dying, { kind: 'leave', lease: 'n#', place: first }, 'client-wait1')
          await hears(heard, place, (aheads) => aheads.includes(0))
        },

        'hear of a vacancy after one ahead was granted a share, whatever it weighs': async () => {
          const by = substrate()
          const heard = await hearing(by, 'client-wait2')
          await grant(by, share('a', { weight: 2, capacity: 4 }))
          const b = await grant(by, share('b', { weight: 2, capacity: 4 }))
          const first = await enter(by, 'client-wait1', { weight: 1, capacity: 4 })
          const place = await enter(by, 'client-wait2', { weight: 2, capacity: 4 })
          await settle(by, release('n#b', 'b', { fencingToken: b.fencingToken, seen: b }))
          await hears(heard, place, (aheads) => aheads.includes(1))
          const { holding } = await send(by, share('client-wait1', { capacity: 4, place: first }), 'client-wait1')
          const before = calls(heard, place).length
          // Now there is room for it by this one alone.
          await settle(by, release('n#client-wait1', 'client-wait1', { nonce: holding?.nonce }))
          await hears(heard, place, (aheads) => aheads.length > before && aheads.at(-1) === 0)
        },

        'are all notified and dismissed when it is undefined, however many they are': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await settle(by, define(1, undefined, 'g1'))
          await grant(by, share('a'))
          await Promise.all(Array.from({ length: 130 }, (_, index) => enter(by, `client-${1000 + index}`, {})))
          expect(await outcomeOf(by, define(undefined, 'g1'))).to.equal('granted')
          const { count } = await setting.etcd.getAll().prefix(`lease/${namespace}/c/`).exec()
          expect(count).to.equal('130')
          expect(await ticketsIn(namespace)).to.equal(0)
        },

        'are passed by one that goes ahead, however many they are, and the first hears of the room that it leaves':
          async () => {
            const namespace = unique('ns')
            const by = substrate(namespace)
            await settle(by, define(3, undefined, 'g1'))
            const a = await grant(by, share('a', { weight: 3 }))
            const heard = await hearing(by, 'client-first')
            const first = await enter(by, 'client-first', {})
            await Promise.all(Array.from({ length: 128 }, (_, index) => enter(by, `client-${1000 + index}`, {})))
            const last = await enter(by, 'client-last1', { weight: 2 })
            await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
            await hears(heard, first, ({ length }) => length >= 1)
            expect((await send(by, share('x', { passing: 130 }))).told).to.be.greaterThan(first)
            await hears(heard, first, ({ length }) => length >= 2)
            expect(await ticketsIn(namespace)).to.equal(130)
            await grant(by, share('y', { passing: 130 }))
            // There is no room for the last of them.
            expect(await outcomeOf(by, share('z', { passing: 130 }))).to.equal('refused')
            await send(by, { kind: 'leave', lease: 'n#', place: last }, 'client-last1')
            expect(await outcomeOf(by, share('z', { passing: 128 }))).to.equal('refused')
            expect((await send(by, share('z', { passing: 129 }))).told).to.equal(undefined)
            expect(await weights(by)).to.equal(3)
          },

        'stay where they are when one behind them is dismissed': async () => {
          const by = substrate()
          await settle(by, define(4, undefined, 'g1'))
          const a = await grant(by, share('a', { weight: 2 }))
          await grant(by, share('b', { weight: 2 }))
          const first = await enter(by, 'client-wait1', {})
          await enter(by, 'client-wait2', { weight: 4 })
          const heard = await hearing(by, 'client-wait3')
          const place = await enter(by, 'client-wait3', {})
          expect((await settle(by, define(3, 'g1', 'g2'))).told).to.equal(undefined)
          await sleep(200)
          // It was not notified that it is the first: the one dismissed was not granted a share.
          expect(heard.filter((it) => 'to' in it && it.to?.ahead === 0)).to.deep.equal([])
          const again = await send(by, share('client-wait3', { place }), 'client-wait3')
          expect(again.ticket).to.deep.equal({ place, ahead: 1 })
          const { told } = await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
          expect(told).to.equal(place)
          expect((await send(by, share('client-wait1', { place: first }), 'client-wait1')).outcome).to.equal('granted')
        },

        'stay if they ask for less before they are dismissed': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await settle(by, define(4, undefined, 'g1'))
          await grant(by, share('a', { weight: 2 }))
          const place = await enter(by, 'client-wait1', { weight: 4 })
          const etcd = setting.newEtcd({ grpcOptions: {} })
          const definer = setting.substrate({ namespace, etcd })
          await definer.read(['l'], newCall()) // asks for the layout
          const txn = etcd.kv.txn.bind(etcd.kv)
          let txns = 0
          etcd.kv.txn = async (...args) => {
            // It reads, it changes the capacity, and then it dismisses.
            if (++txns === 3) await send(by, share('client-wait1', { weight: 2, place }), 'client-wait1')
            return txn(...args)
          }
          await settle(definer, define(2, 'g1', 'g2'))
          expect(txns).to.be.at.least(3)
          expect(await ticketsIn(namespace)).to.equal(1)
        },

        'are dismissed by the copy of a definition, too': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await settle(by, define(4, undefined, 'g1'))
          await grant(by, share('a'))
          const heard = await hearing(by, 'client-wait1')
          const place = await enter(by, 'client-wait1', { weight: 4 })
          const next = await enter(by, 'client-wait2', {})
          // The client was gone after that.
          await setting.etcd.put(`lease/${namespace}/g/n#`).value(JSON.stringify({ c: 2, g: 'g2', m: 1, w: 1 }))
          const { outcome, told } = await settle(by, define(2, 'g1', 'g2'))
          expect([outcome, told]).to.deep.equal(['granted', next])
          await hears(heard, place, (aheads) => aheads.includes(0))
          expect(await ticketsIn(namespace)).to.equal(1)
        },

        'are named to one that gets its ticket though there is room for the first: the last that was notified':
          async () => {
            const by = substrate()
            const a = await grant(by, share('a', { weight: 2, capacity: 2 }))
            const places: number[] = []
            for (const client of ['client-wait1', 'client-wait2', 'client-wait3']) {
              places.push(await enter(by, client, { weight: 2, capacity: 2 }))
            }
            await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
            const other = await send(by, share('client-wait4', { capacity: 2, place: 0 }), 'client-wait4')
            expect([other.told, other.ticket?.ahead]).to.deep.equal([places[1], 3])
            const again = await send(
              by,
              share('client-wait4', { capacity: 2, place: other.ticket?.place ?? 0 }),
              'client-wait4',
            )
            expect(again.told, 'they are notified anew').to.equal(places[1])
            await grant(by, share('b', { weight: 2, capacity: 2, passing: 9 }))
            const full = await send(by, share('client-wait5', { capacity: 2, place: 0 }), 'client-wait5')
            expect([full.told, full.ticket?.ahead]).to.deep.equal([undefined, 4])
          },

        'are passed over if there is room for the first, and the next are notified': async () => {
          const by = substrate()
          const a = await grant(by, share('a', { weight: 2, capacity: 2 }))
          const clients = ['client-wait1', 'client-wait2', 'client-wait3']
          const heard = await hearing(by, 'client-wait3')
          const places: number[] = []
          for (const client of clients) places.push(await enter(by, client, { weight: 2, capacity: 2 }))
          const [, second = 0, third = 0] = places
          // There is no room: nobody is.
          await send(by, { kind: 'passOver', lease: 'n#', place: second })
          const again = await send(by, share('client-wait3', { weight: 2, capacity: 2, place: third }), 'client-wait3')
          expect(again.ticket?.ahead).to.equal(2)
          const { told } = await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
          expect(told).to.equal(second)
          // Those are passed over of whom this client has notified somebody.
          await settle(by, { kind: 'passOver', lease: 'n#', place: second })
          await hears(heard, third, (aheads) => aheads.includes(0))
          const { outcome } = await send(
            by,
            share('client-wait3', { weight: 2, capacity: 2, place: third }),
            'client-wait3',
          )
          expect(outcome).to.equal('granted')
        },

        'are named by a release only if there is room for the first': async () => {
          const by = substrate()
          const a = await grant(by, share('a', { capacity: 2 }))
          const b = await grant(by, share('b', { capacity: 2 }))
          const place = await enter(by, 'client-wait1', { weight: 2, capacity: 2 })
          const first = await settle(by, release('n#a', 'a', { fencingToken: a.fencingToken, seen: a }))
          const last = await settle(by, release('n#b', 'b', { fencingToken: b.fencingToken, seen: b }))
          expect([first.told, last.told]).to.deep.equal([undefined, place])
        },

        'hear of the end of one that was expired, and of the last pin of one that had lapsed': async () => {
          const by = substrate()
          const heard = await hearing(by, 'client-wait1')
          const a = await grant(by, share('a', { capacity: 2 }))
          await grant(by, share('b', { capacity: 2 }))
          const place = await enter(by, 'client-wait1', { capacity: 2 })
          expect((await settle(by, expire('n#a', a.version))).told).to.equal(place)
          await hears(heard, place, ({ length }) => length >= 1)
          await send(by, share('client-wait1', { capacity: 2, place }), 'client-wait1')
          const heardNext = await hearing(by, 'client-wait2')
          const next = await enter(by, 'client-wait2', { capacity: 2 })
          await settle(by, pin('n#b', 'e', 'g'))
          const pinned = await readOne(by, 'n#b')
          const { told } = await settle(by, { ...unpin('n#b', 'e', 'g'), lapsed: pinned?.version })
          expect(told).to.equal(next)
          await hears(heardNext, next, ({ length }) => length >= 1)
        },

        'wait for no share that their holder has, and leave no ticket': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await grant(by, share('client-wait1', { capacity: 1 }))
          for (const place of [0, 7]) {
            const verdict = await send(by, share('client-wait1', { capacity: 1, place }), 'client-wait1')
            expect([verdict.outcome, verdict.holding?.holder]).to.deep.equal(['refused', 'client-wait1'])
            expect(verdict).not.to.have.any.keys('ticket', 'counted')
          }
          expect(await ticketsIn(namespace)).to.equal(0)
        },
      })
    })

    describe('what stays behind', () => {
      const left = async (namespace: string) =>
        (await setting.etcd.getAll().prefix(`lease/${namespace}/`).exec()).kvs.map(({ key, lease }) => ({
          key: String(key).slice(`lease/${namespace}/`.length),
          lease,
        }))
      const secondsOf = async (ID: string): Promise<number> =>
        Number((await setting.etcd.leaseClient.leaseTimeToLive({ ID })).grantedTTL)

      it('is the gate that a claim has made, for a day after the last grant', async () => {
        const namespace = unique('ns')
        const by = setting.substrate({ namespace })
        await grant(by, share('a', { capacity: 1 }))
        const place = await enter(by, 'client-wait1', { capacity: 1 })
        await settle(by, release('n#a', 'a', { nonce: (await readOne(by, 'n#a'))?.nonce }))
        const own = await send(by, share('client-wait1', { capacity: 1, place }), 'client-wait1')
        await settle(by, release('n#client-wait1', 'client-wait1', { nonce: own.holding?.nonce }))
        await by.close()
        const keys = await left(namespace)
        const lasting = keys.filter(({ key }) => key !== 'v')
        expect(lasting.map(({ key }) => key)).to.include('g/n#')
        for (const { key, lease } of lasting) {
          expect(lease, key).not.to.equal('0')
          const seconds = await secondsOf(lease)
          if (key === 'g/n#') expect(seconds).to.be.within(86_400 + LONG / 1000, 2 * 86_400)
          else expect(seconds, key).to.be.at.most(Math.max(LONG, INTEREST_MS) / 1000 + 120)
        }
      })

      it('is what was defined, until it is undefined: then a mark, for an hour', async () => {
        const namespace = unique('ns')
        const by = setting.substrate({ namespace })
        await settle(by, define(2, undefined, 'g1'))
        await grant(by, share('a', {}))
        expect((await left(namespace)).find(({ key }) => key === 'g/n#')?.lease).to.equal('0')
        await settle(by, define(undefined, 'g1'))
        const mark = (await left(namespace)).find(({ key }) => key === 'g/n#') ?? expect.fail()
        expect(await secondsOf(mark.lease)).to.be.within(3_600, 2 * 3_600)
      })

      it('is what a claim has defined, for good, once it is defined', async () => {
        const namespace = unique('ns')
        const by = setting.substrate({ namespace })
        await grant(by, share('a', { capacity: 2, nonce: 'client-words1' }))
        expect(await outcomeOf(by, define(3, 'client-words1', 'g2'))).to.equal('granted')
        await grant(by, share('b', { capacity: 3 }))
        expect((await left(namespace)).find(({ key }) => key === 'g/n#')?.lease).to.equal('0')
      })
    })

    describe('definitions', () => {
      together({
        'come through beside grants that come meanwhile': async () => {
          const namespace = unique('ns')
          const by = substrate(namespace)
          await settle(by, define(1_000, undefined, 'g1'))
          const over = new AbortController()
          const claiming = (async () => {
            for (let index = 0; !over.signal.aborted; index++) await settle(by, share(`h${index % 900}`))
          })()
          const { outcome } = await settle(substrate(namespace), define(2_000, 'g1', 'g2'))
          over.abort()
          await claiming
          expect(outcome).to.equal('granted')
        },

        'are granted once more to one that asks again, also where nothing is defined any more': async () => {
          const by = substrate()
          for (const op of [define(2, undefined, 'g1'), define(3, 'g1', 'g2'), define(undefined, 'g2', 'g3')]) {
            expect(await outcomeOf(by, op)).to.equal('granted')
            expect(await outcomeOf(by, op)).to.equal('granted')
          }
          expect(await outcomeOf(by, define(4, 'g2'))).to.equal('refused')
        },

        'of a claim show in its own refusal': async () => {
          const by = substrate()
          await settle(by, define(2, undefined, 'g1'))
          await grant(by, share('a', { weight: 2 }))
          await settle(by, define(undefined, 'g1'))
          const { outcome, counted } = await settle(by, share('b', { weight: 2, capacity: 2 }))
          expect([outcome, counted?.capacity]).to.deep.equal(['refused', 2])
        },
      })
    })
  })
}
