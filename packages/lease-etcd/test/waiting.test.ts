/** Those who wait: what a hand-off costs however many there are, and that nobody sleeps through a vacancy. */
import { expect } from 'chai'
import { Manager, type Hold, type LeaseChange } from 'lease-core'
import { SubstrateClient, type Op, type Verdict } from 'lease-core/adapter'
import { etcdTargets, isMatrix } from 'lease-servers'
import { EtcdSubstrate, failFast } from 'lease-etcd'
import type { Etcd3 } from 'etcd3'
import {
  claim,
  eventually,
  extend,
  newCall,
  noneUnheard,
  pin,
  release,
  sleep,
  together,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** So long only a hint wakes anybody. */
const LONG = { minutes: 20 }
const HAND_OFFS = isMatrix() ? 1_000 : 60

/** A client, and a nonce of it. */
const HOLDER = 'holder-of-it'
const NONCE = `${HOLDER}-1`

interface Counted {
  /** Requests, without those for etcd leases. */
  commands: number
  /** Answers on streams that tell of events. */
  messages: number
}

/** Counts what passes this driver. */
function count(etcd: Etcd3, counted: Counted): Etcd3 {
  const { watchClient } = etcd
  const watch = watchClient.watch.bind(watchClient)
  watchClient.watch = async (options) => {
    const stream = await watch(options)
    stream.on('data', ({ events }) => {
      if (events.length > 0) counted.messages++
    })
    return stream
  }
  return etcd
}

/** Each transaction takes so much longer. */
function slowDown(etcd: Etcd3, commandMs: number): void {
  const { kv } = etcd
  const txn = kv.txn.bind(kv)
  kv.txn = async (...call) => {
    await sleep(commandMs)
    return txn(...call)
  }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((one, other) => one - other)[numbers.length >> 1] ?? Number.NaN
}

for (const target of etcdTargets(1)) {
  describe(`those who wait, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    /** Managers in as many clients, each over a driver of its own. */
    const managers = (
      amount: number,
      counted: Counted,
      { commandMs = 0 } = {},
    ): AsyncDisposable & { readonly namespace: string; readonly all: readonly Manager[] } => {
      const namespace = unique('ns')
      const opened = Array.from({ length: amount }, () => {
        const etcd = setting.newEtcd({
          ...failFast(),
          grpcOptions: {},
          defaultCallOptions: ({ method }) => {
            if (method === 'txn' || method === 'range') counted.commands++
            return {}
          },
        })
        if (commandMs > 0) slowDown(etcd, commandMs)
        const substrate = new EtcdSubstrate({ etcd: count(etcd, counted), namespace })
        const client = new SubstrateClient({ substrate, requestTimeout: { seconds: 30 } })
        return { client, manager: new Manager({ client }), etcd }
      })
      return {
        namespace,
        all: opened.map(({ manager }) => manager),
        async [Symbol.asyncDispose]() {
          for (const { manager, client, etcd } of opened) {
            await manager.stop()
            await client.close()
            etcd.close()
          }
        },
      }
    }

    // Each of them has a connection of its own.
    for (const waiters of isMatrix() ? [2, 16, 64] : [2, 16]) {
      it(`a hand-off takes at most four commands and four messages with ${waiters} waiters`, async () => {
        const counted: Counted = { commands: 0, messages: 0 }
        await using group = managers(waiters + 1, counted)
        const [first, ...others] = group.all as [Manager, ...Manager[]]
        const options = { duration: LONG, wait: true }
        let holding = await first.hold('l', 'h', options)
        let holder = first
        let holders = 0
        /** In the order in which they came. */
        const line: { readonly manager: Manager; readonly hold: Promise<Hold> }[] = []
        const enter = async (manager: Manager): Promise<void> => {
          let stop = (): void => {}
          const waiting = new Promise<void>((resolve) => {
            stop = manager.events.subscribe(({ type }) => type === 'waiting' && resolve())
          })
          const hold = manager.hold('l', `h${++holders}`, options)
          hold.catch(() => {}) // those who wait in the end
          line.push({ manager, hold })
          await waiting
          stop()
        }
        for (const manager of others) await enter(manager)
        await sleep(200)
        const costs: Counted[] = []
        for (let times = 0; times < Math.max(12, waiters + 4); times++) {
          counted.commands = counted.messages = 0
          await holding.release()
          const former = holder
          // Mostly the first one; on a busy machine the one that stands in may be faster.
          const granted = await Promise.race(line.map(async ({ hold }, index) => ({ index, hold: await hold })))
          const [next] = line.splice(granted.index, 1)
          holding = granted.hold
          holder = next?.manager ?? expect.fail()
          await enter(former)
          await sleep(20)
          costs.push({ ...counted })
        }
        // On a busy machine somebody stands in now and then, and a message comes later.
        expect(median(costs.map(({ commands }) => commands))).to.be.at.most(4)
        expect(median(costs.map(({ messages }) => messages))).to.be.at.most(4)
        await holding.release()
      })
    }

    it('a claim and a release that nobody waits for take two commands and no message', async () => {
      const counted: Counted = { commands: 0, messages: 0 }
      await using group = managers(2, counted)
      const [one, other] = group.all as [Manager, Manager]
      const own = [await one.hold('own', 'h', { duration: LONG }), await other.hold('other', 'h', { duration: LONG })]
      await (await one.hold('l', 'h', { duration: LONG })).release()
      await sleep(200)
      counted.commands = counted.messages = 0
      for (let times = 1; times <= 10; times++)
        await (await one.hold('l', 'h', { duration: LONG, wait: true })).release()
      await sleep(200)
      expect(counted).to.deep.equal({ commands: 20, messages: 0 })
      for (const hold of own) await hold.release()
    })

    it('nobody sleeps through a vacancy, however fast the lease is handed over', async function () {
      this.timeout(600_000)
      const counted: Counted = { commands: 0, messages: 0 }
      await using group = managers(6, counted)
      let handOffs = 0
      const waitedMs: number[] = []
      await Promise.all(
        group.all.map(async (manager, index) => {
          while (handOffs < HAND_OFFS) {
            const beganMs = performance.now()
            const hold = await manager.hold('l', `h${index}`, { duration: LONG, wait: true })
            waitedMs.push(performance.now() - beganMs)
            handOffs++
            if (Math.random() < 0.3) await sleep(Math.random() * 5)
            await hold.release()
            if (Math.random() < 0.3) await sleep(Math.random() * 20)
          }
        }),
      )
      // Anyone who sleeps looks after a minute.
      expect(Math.max(...waitedMs)).to.be.below(50_000)
    })

    /** Hears what this client is notified, once it is connected. */
    const hearing = async (substrate: EtcdSubstrate, client: string): Promise<LeaseChange[]> => {
      const heard: LeaseChange[] = []
      substrate.watch?.((change) => heard.push(change), client)
      await eventually(() => heard.length >= 1)
      return heard
    }
    const send = async (substrate: EtcdSubstrate, op: Op, client: string): Promise<Verdict> =>
      (await substrate.apply([op], newCall({ client, timeoutMs: 60_000 })))[0] ?? expect.fail()
    const enter = async (substrate: EtcdSubstrate, client: string): Promise<number> => {
      const { ticket } = await send(substrate, claim('l', client, 60_000, { place: 0 }), client)
      return ticket?.place ?? expect.fail()
    }
    const tellsOf = (heard: readonly LeaseChange[], place: number, ahead: number): boolean =>
      heard.some((it) => it.kind === 'vacated' && it.to?.place === place && it.to.ahead === ahead)

    it('a wait that is too short for a ticket takes one command to be granted a vacant lease for which the dead wait', async () => {
      const counted: Counted = { commands: 0, messages: 0 }
      const commandMs = 500
      await using group = managers(1, counted, { commandMs })
      const [hurried] = group.all as [Manager]
      const own = await hurried.hold('own', 'h', { duration: LONG, wait: true })
      const substrate = setting.substrate({ namespace: group.namespace })
      await send(substrate, claim('l', 'x', 60_000, { nonce: NONCE }), HOLDER)
      for (const client of ['one', 'two']) await enter(substrate, client)
      await send(substrate, release('l', 'x', { nonce: NONCE }), HOLDER)
      counted.commands = 0
      const hold = await hurried.hold('l', 'h', { duration: LONG, wait: 4 * commandMs - 100 })
      expect(counted.commands).to.equal(1)
      await hold.release()
      await own.release()
    })

    it('one that stands in looks soon, however often others take the lease past the queue', async () => {
      const counted: Counted = { commands: 0, messages: 0 }
      // So its turn comes a tenth of a second after a vacancy, and the next vacancy sooner.
      await using group = managers(1, counted, { commandMs: 50 })
      const [second] = group.all as [Manager]
      const substrate = setting.substrate({ namespace: group.namespace })
      await send(substrate, claim('l', 'x', 60_000, { nonce: NONCE }), HOLDER)
      await enter(substrate, 'dead')
      let isWaiting = false
      second.events.subscribe(({ type }) => (isWaiting ||= type === 'waiting'))
      const hold = second.hold('l', 'h', { duration: LONG, wait: true })
      await eventually(() => isWaiting)
      await sleep(200)
      counted.commands = 0
      let vacancies = 0
      while (counted.commands === 0 && vacancies < 500) {
        await send(substrate, release('l', 'x', { nonce: NONCE }), HOLDER)
        await send(substrate, claim('l', 'x', 60_000, { nonce: NONCE }), HOLDER)
        vacancies++
      }
      expect(vacancies).to.be.below(500)
      await send(substrate, release('l', 'x', { nonce: NONCE }), HOLDER)
      await (await hold).release()
    })

    together({
      'a release knows who was notified, although its client listens to nothing and came past the queue': async () => {
        const substrate = setting.substrate()
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), HOLDER)
        const places = [await enter(substrate, 'one'), await enter(substrate, 'two'), await enter(substrate, 'three')]
        const first = await send(substrate, release('l', 'h', { nonce: NONCE }), HOLDER)
        expect(first.told).to.equal(places[1])
        const { holding: seen } = await send(substrate, claim('l', 'barger', 60_000, { nonce: 'barger-1' }), 'barger')
        const second = await send(substrate, release('l', 'barger', { nonce: 'barger-1', seen }), 'barger')
        expect(second.told).to.equal(places[1])
      },

      'a release that nobody waits for notifies nobody': async () => {
        const substrate = setting.substrate()
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), HOLDER)
        const place = await enter(substrate, 'one')
        await send(substrate, { kind: 'leave', lease: 'l', place }, 'one')
        expect(await send(substrate, release('l', 'h', { nonce: NONCE }), HOLDER)).to.not.have.property('told')
      },

      'the last pin of a lease that was seen to have lapsed takes the lease with it, and the first in the queue is notified':
        async () => {
          const substrate = setting.substrate({ etcd: setting.newEtcd({ grpcOptions: {} }) })
          const holder = await hearing(substrate, HOLDER)
          const first = await hearing(substrate, 'one')
          await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), HOLDER)
          await send(substrate, pin('l', 'e', 'g1'), 'operator')
          const { holding } = await send(substrate, pin('l', 'f', 'g2'), 'operator')
          const place = await enter(substrate, 'one')
          const lapsed = holding?.version
          const notLast = await send(substrate, { ...unpin('l', 'e', 'g1'), lapsed }, 'operator')
          expect([notLast.holding?.version, notLast.holding?.pinned]).to.deep.equal([lapsed, true])
          const last = await send(substrate, { ...unpin('l', 'f', 'g2'), lapsed }, 'operator')
          expect([last.holding, last.told]).to.deep.equal([undefined, place])
          await eventually(() => tellsOf(first, place, 0))
          await eventually(() => holder.some((it) => it.kind === 'vacated' && it.lease === 'l' && it.to === undefined))
        },

      'the last pin of a lease that has changed since it was seen leaves it held': async () => {
        const substrate = setting.substrate()
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), HOLDER)
        const { holding } = await send(substrate, pin('l', 'e', 'g1'), 'operator')
        const { fencingToken = 0n } = holding ?? {}
        await send(substrate, extend('l', 'h', 90_000, { fencingToken }), HOLDER)
        const { holding: after } = await send(
          substrate,
          { ...unpin('l', 'e', 'g1'), lapsed: holding?.version },
          'operator',
        )
        expect([after?.holder, after?.pinned]).to.deep.equal(['h', false])
      },

      'of releases that travel together, the one that somebody waits for knows who was notified': async () => {
        const substrate = setting.substrate()
        const leases = ['l', 'm', 'n']
        const call = newCall({ client: HOLDER, timeoutMs: 60_000 })
        for (let times = 1; times <= 2; times++) {
          const claims = leases.map((lease) => claim(lease, 'h', 60_000, { nonce: `${NONCE}${times}` }))
          const held = await substrate.apply(claims, call)
          // The second time it is known that somebody waits.
          const place = times === 1 ? await enter(substrate, 'one') : undefined
          const releases = leases.map((lease, index) =>
            release(lease, 'h', { nonce: `${NONCE}${times}`, seen: held[index]?.holding }),
          )
          const verdicts = await substrate.apply(releases, call)
          expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted', 'granted'])
          if (place !== undefined) expect(verdicts[0]?.told).to.equal(place)
          expect(verdicts[0]?.told).to.be.above(0)
          expect([verdicts[1]?.told, verdicts[2]?.told]).to.deep.equal([undefined, undefined])
        }
      },

      'as many as `maxWaiters` allows are in the queue where more come at the same moment, and no ticket of the others stays':
        async () => {
          const maxWaiters = 3
          for (const [lease, comers] of [
            ['l', maxWaiters],
            ['m', 16],
          ] as const) {
            const substrates = Array.from({ length: comers }, () =>
              setting.substrate({ etcd: setting.newEtcd({ grpcOptions: {} }), namespace: `${lease}-full` }),
            )
            const [first] = substrates as [EtcdSubstrate]
            await send(first, claim(lease, 'h', 60_000, { nonce: NONCE }), HOLDER)
            const verdicts = await Promise.all(
              substrates.map((substrate, index) =>
                send(substrate, claim(lease, `w${index}`, 60_000, { place: 0, maxWaiters }), `w${index}`),
              ),
            )
            expect(verdicts.filter(({ ticket }) => ticket !== undefined)).to.have.lengthOf(maxWaiters)
            expect(verdicts.filter(({ isFull }) => isFull === true)).to.have.lengthOf(comers - maxWaiters)
            const { ticket } = await send(first, claim(lease, 'last', 60_000, { place: 0 }), 'last')
            expect(ticket?.ahead).to.equal(maxWaiters)
          }
        },

      'those who were notified and do not come are passed over, and the next ones are notified': async () => {
        const substrate = setting.substrate({ etcd: setting.newEtcd({ grpcOptions: {} }) })
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), 'holder')
        const clients = ['one', 'two', 'three', 'four']
        const heard = await Promise.all(clients.map((client) => hearing(substrate, client)))
        const places: number[] = []
        for (const client of clients) places.push(await enter(substrate, client))
        const { told } = await send(substrate, release('l', 'h', { nonce: NONCE }), 'revoker')
        expect(told).to.equal(places[1])
        await eventually(() => tellsOf(heard[0] ?? [], places[0] ?? 0, 0) && tellsOf(heard[1] ?? [], places[1] ?? 0, 1))
        const passed = await send(substrate, { kind: 'passOver', lease: 'l', place: told ?? 0 }, 'revoker')
        expect(passed.told).to.equal(places[3])
        await eventually(() => tellsOf(heard[2] ?? [], places[2] ?? 0, 0) && tellsOf(heard[3] ?? [], places[3] ?? 0, 1))
        // Anyone who was passed over and lives gets its place back.
        const late = await send(substrate, claim('l', 'two', 60_000, { place: places[1] }), 'two')
        expect(late.outcome).to.equal('granted')
      },

      'nobody is passed over where the client that made the vacancy has seen somebody come': async () => {
        const substrate = setting.substrate()
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), 'holder')
        const places = [await enter(substrate, 'one'), await enter(substrate, 'two')]
        const { told } = await send(substrate, release('l', 'h', { nonce: NONCE }), 'revoker')
        await send(substrate, claim('l', 'one', 60_000, { place: places[0] }), 'one')
        await enter(substrate, 'revoker')
        await send(substrate, release('l', 'one'), 'one')
        await send(substrate, { kind: 'passOver', lease: 'l', place: told ?? 0 }, 'revoker')
        const { ticket } = await send(substrate, claim('l', 'three', 60_000, { place: 0 }), 'three')
        expect(ticket?.ahead).to.equal(2)
      },

      'a ticket that is given up in the middle hides nobody from those behind': async () => {
        const substrate = setting.substrate({ etcd: setting.newEtcd({ grpcOptions: {} }) })
        await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), 'holder')
        const last = await hearing(substrate, 'last')
        const places: number[] = []
        for (const client of ['one', 'two', 'three', 'last']) places.push(await enter(substrate, client))
        const [, two, three, own = 0] = places
        await send(substrate, { kind: 'leave', lease: 'l', place: three }, 'three')
        // It has lost sight of the first, and is to look.
        await eventually(() => tellsOf(last, own, 2))
        const again = await send(substrate, claim('l', 'last', 60_000, { place: own }), 'last')
        expect(again.ticket).to.deep.equal({ place: own, ahead: 2 })
        await send(substrate, { kind: 'leave', lease: 'l', place: two }, 'two')
        // More than once: it begins to watch the lease only now. And it looks when it is asked to, as core does.
        for (let times = 1; !tellsOf(last, own, 1); times++) {
          const { ticket } = await send(substrate, claim('l', 'last', 60_000, { place: own }), 'last')
          expect(ticket).to.deep.equal({ place: own, ahead: 1 })
          await send(substrate, release('l', 'h', { nonce: NONCE }), 'holder')
          await send(substrate, claim('l', 'h', 60_000, { nonce: NONCE }), 'holder')
          await sleep(times)
        }
      },
    })
  })
}
