import { expect } from 'chai'
import type { Holding, Verdict } from 'lease-core/adapter'
import { etcdTargets } from 'lease-servers'
import type { EtcdDriver, EtcdSubstrate, EtcdTxn } from 'lease-etcd'
import { claim, extend, grant, newCall, pin, readOne, release, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

const outcomes = (verdicts: readonly Verdict[]): string[] => verdicts.map(({ outcome }) => outcome)

for (const target of etcdTargets(1)) {
  describe(`operations that travel together, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    /** What `substrate` has sent. */
    let sent: EtcdTxn[]
    let substrate: EtcdSubstrate
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('ns')
      sent = []
      const { kv, prefix, leaseClient, watchClient, maintenance }: EtcdDriver = setting.etcd
      substrate = setting.substrate({
        namespace,
        etcd: {
          prefix,
          leaseClient,
          watchClient,
          maintenance,
          kv: {
            range: (range, options) => kv.range(range, options),
            txn(txn, options) {
              sent.push(txn)
              return kv.txn(txn, options)
            },
          },
        },
      })
    })

    const claimed = async (names: readonly string[], by: EtcdSubstrate = substrate): Promise<Holding[]> => {
      const verdicts = await by.apply(
        names.map((name) => claim(name, 'a', 60_000)),
        newCall(),
      )
      sent.length = 0
      return verdicts.map(({ holding }) => holding ?? expect.fail())
    }
    const renewal = (name: string, seen: Holding | undefined) => extend(name, 'a', 60_000, { seen })
    const letGo = (name: string, seen: Holding | undefined) =>
      release(name, 'a', { fencingToken: seen?.fencingToken ?? 0n, seen })

    for (const [how, open] of [
      ['by way of a wrapped driver', () => substrate],
      ['by the short cut', () => setting.substrate({ namespace })],
    ] as const) {
      it(`renewals are granted, except one that was lost, ${how}`, async () => {
        const by = open()
        const names = ['x', 'y', 'z']
        const seen = await claimed(names, by)
        const other = setting.substrate({ namespace })
        await grant(other, claim('y', 'b', 60_000, { lapsed: seen[1]?.version }))
        const verdicts = await by.apply(
          names.map((name, index) => renewal(name, seen[index])),
          newCall(),
        )
        expect(outcomes(verdicts)).to.deep.equal(['granted', 'refused', 'granted'])
        expect(verdicts[1]?.holding).to.include({ holder: 'b' })
        for (const [index, name] of names.entries()) {
          expect(await readOne(other, name)).to.deep.equal(verdicts[index]?.holding)
        }
      })
    }

    it('renewals and releases that find what they expect take one request, without transactions inside', async () => {
      const seen = await claimed(['x', 'y', 'z'])
      const ops = [renewal('x', seen[0]), letGo('y', seen[1]), renewal('z', seen[2])]
      const verdicts = await substrate.apply(ops, newCall())
      expect(outcomes(verdicts)).to.deep.equal(['granted', 'granted', 'granted'])
      expect(sent).to.have.lengthOf(1)
      expect(sent[0]?.success?.some(({ request_txn }) => request_txn !== undefined)).to.equal(false)
      expect(await readOne(substrate, 'x')).to.deep.equal(verdicts[0]?.holding)
      expect(await readOne(substrate, 'y')).to.equal(undefined)
      expect(verdicts[0]?.holding?.version).not.to.equal(seen[0]?.version)
    })

    it('nothing of a merged request is done while one of its conditions is not met, and all in the next', async () => {
      const seen = await claimed(['x', 'y', 'z', 'held'])
      await grant(setting.substrate({ namespace }), claim('z', 'b', 60_000, { lapsed: seen[2]?.version }))
      const ops = [
        claim('new', 'a', 60_000),
        renewal('x', seen[0]),
        claim('held', 'b', 60_000),
        letGo('y', seen[1]),
        letGo('z', seen[2]),
        claim('newer', 'a', 60_000),
      ]
      const verdicts = await substrate.apply(ops, newCall())
      expect(outcomes(verdicts)).to.deep.equal(['granted', 'granted', 'refused', 'granted', 'refused', 'granted'])
      expect(sent).to.have.lengthOf(2)
      expect(verdicts[2]?.holding).to.deep.equal(seen[3])
      expect(verdicts[4]?.holding).to.include({ holder: 'b' })
      const found = await substrate.read(undefined, newCall())
      for (const [index, name] of ['new', 'x', 'held'].entries()) {
        expect(found.get(name)).to.deep.equal(verdicts[index]?.holding)
      }
      expect([...found.keys()].toSorted()).to.deep.equal(['held', 'new', 'newer', 'x', 'z'])
    })

    it('claims keep their own conditions beside merged ones', async () => {
      const seen = await claimed(['x', 'held'])
      const ops = [claim('held', 'b', 60_000), renewal('x', seen[0]), claim('new', 'b', 60_000)]
      const verdicts = await substrate.apply(ops, newCall())
      expect(outcomes(verdicts)).to.deep.equal(['refused', 'granted', 'granted'])
      expect(sent).to.have.lengthOf(1)
      expect(verdicts[2]?.holding).to.deep.equal(await readOne(substrate, 'new'))
    })

    it('one operation alone needs no transaction inside another', async () => {
      const [seen] = await claimed(['x'])
      const [renewed] = await substrate.apply([renewal('x', seen)], newCall())
      await substrate.apply([letGo('x', renewed?.holding)], newCall())
      await substrate.apply([claim('x', 'b', 60_000)], newCall())
      expect(sent).to.have.lengthOf(3)
      expect(sent.some(({ success }) => success?.some(({ request_txn }) => request_txn))).to.equal(false)
    })

    it('a pinned vacant lease is claimed without an etcd lease, also with a ticket, which is gone then', async () => {
      await substrate.apply([pin('x', 'e'), pin('y', 'e')], newCall())
      expect(await grant(substrate, claim('x', 'a', 60_000))).to.include({ pinned: true })
      const [queued] = await substrate.apply([claim('y', 'a', 60_000, { place: 0 })], newCall())
      expect(queued).to.have.property('outcome', 'refused')
      const place = queued?.ticket?.place ?? expect.fail()
      const held = await grant(substrate, claim('y', 'a', 60_000, { place }))
      expect(held).to.include({ pinned: true })
      expect(await readOne(substrate, 'y')).to.deep.equal(held)
      await grant(substrate, claim('z', 'a', 60_000))
      const { count } = await setting.etcd.getAll().prefix(`lease/${namespace}/t/`).exec()
      expect(count).to.equal('0')
    })
  })
}
