import { expect } from 'chai'
import type { Holding, Op } from 'lease-core/adapter'
import { etcdTargets } from 'lease-servers'
import type { EtcdSubstrate } from 'lease-etcd'
import { claim, expire, extend, grant, newCall, pin, readOne, release, settle, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

const vacant = { outcome: 'granted', holding: undefined, cause: undefined }

for (const target of etcdTargets()) {
  describe(`the operations, on ${target.name}`, () => {
    let setting: Setting
    let substrate: EtcdSubstrate
    let namespace: string
    let name: string
    before(() => {
      setting = openSetting(target)
      namespace = unique('ns/é')
      substrate = setting.substrate({ namespace })
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => (name = unique('lease')))

    /** The key of the lease as it lies in the store. */
    const record = async (lease = name) => {
      const { kvs } = await setting.etcd.kv.range({
        key: Buffer.from(`lease/${encodeURIComponent(namespace)}/l/${lease}`),
      })
      return kvs[0]
    }

    describe('claim', () => {
      it('grants a vacant lease: the token is the revision of its creation, the version that of its change', async () => {
        const holding = await grant(substrate, claim(name, 'a', 60_000, { value: 'v', nonce: 'once' }))
        const kv = await record()
        expect(holding).to.deep.equal({
          holder: 'a',
          fencingToken: BigInt(kv?.create_revision ?? 0),
          nonce: 'once',
          remainingMs: 60_000,
          value: 'v',
          pinned: false,
          version: kv?.mod_revision,
          weight: undefined,
        })
        expect(kv?.lease).not.to.equal('0')
        expect(await readOne(substrate, name)).to.deep.equal(holding)
      })

      it('refuses a held lease and brings who holds it', async () => {
        const held = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        for (const holder of ['a', 'b']) {
          expect(await settle(substrate, claim(name, holder, 60_000))).to.deep.equal({
            outcome: 'refused',
            holding: held,
            cause: undefined,
          })
        }
      })

      it('finds its own term again, and writes only where more time is asked for than was granted', async () => {
        const op = claim(name, 'a', 60_000)
        const first = await grant(substrate, op)
        expect(await grant(substrate, op)).to.deep.equal(first)
        expect(await grant(substrate, { ...op, durationMs: 1_000 })).to.deep.equal(first)
        const longer = await grant(substrate, { ...op, durationMs: 120_000, value: 'late' })
        expect(longer).to.include({ fencingToken: first.fencingToken, remainingMs: 120_000, value: undefined })
        expect(longer.version).not.to.equal(first.version)
      })

      it('takes over the version that was observed to have lapsed, and no other', async () => {
        const first = await grant(substrate, claim(name, 'a', 60_000, { value: 'old' }))
        const extended = await grant(substrate, extend(name, 'a', 60_000, { seen: first }))
        expect(await settle(substrate, claim(name, 'b', 60_000, { lapsed: first.version }))).to.deep.include({
          outcome: 'refused',
          holding: extended,
        })
        const next = await grant(substrate, claim(name, 'b', 60_000, { lapsed: extended.version }))
        expect(next).to.include({ holder: 'b', value: undefined })
        expect(next.fencingToken > first.fencingToken).to.equal(true)
        expect(next.fencingToken).to.equal(BigInt((await record())?.create_revision ?? 0))
      })

      it('of many that take over the same lapsed version exactly one is granted', async () => {
        const { version: lapsed } = await grant(substrate, claim(name, 'z', 60_000))
        const verdicts = await Promise.all(
          Array.from({ length: 8 }, (_, index) => settle(substrate, claim(name, `h${index}`, 60_000, { lapsed }))),
        )
        expect(verdicts.filter(({ outcome }) => outcome === 'granted')).to.have.length(1)
        expect(new Set(verdicts.map(({ holding }) => holding?.fencingToken)).size).to.equal(1)
      })

      it('takes over what vanished meanwhile, and does not take over what is pinned', async () => {
        const { version: lapsed } = await grant(substrate, claim(name, 'a', 60_000))
        await settle(substrate, release(name, 'a'))
        const { version } = await grant(substrate, claim(name, 'b', 60_000, { lapsed }))
        await settle(substrate, pin(name, 'e', 'g'))
        expect(await settle(substrate, claim(name, 'c', 60_000, { lapsed: version }))).to.have.property(
          'outcome',
          'refused',
        )
        const pinned = await readOne(substrate, name)
        for (const op of [claim(name, 'c', 60_000, { lapsed: pinned?.version }), expire(name, pinned?.version)]) {
          expect(await settle(substrate, op)).to.deep.equal({ outcome: 'refused', holding: pinned, cause: undefined })
        }
        await settle(substrate, unpin(name, 'e', 'g'))
      })
    })

    describe('extend', () => {
      it('an unchanged term is written anew without being read: one request, another version, the same content', async () => {
        const seen = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        const before = await record()
        const counting = countedRequests(setting)
        const next = await grant(
          setting.substrate({ namespace, etcd: counting.etcd }),
          extend(name, 'a', 5_000, { seen }),
        )
        expect(counting.txns()).to.equal(2) // the first asks for the number of the layout
        expect(next).to.deep.equal({ ...seen, version: next.version })
        const kv = await record()
        expect(kv?.mod_revision).to.equal(next.version)
        expect(kv?.value.toString()).to.equal(before?.value.toString())
        expect(kv?.lease).not.to.equal('0')
      })

      it('what was seen and is seen no more is read, and extended all the same', async () => {
        const seen = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        await grant(substrate, extend(name, 'a', 180_000, { value: 'w', seen }))
        const next = await grant(substrate, extend(name, 'a', 60_000, { seen }))
        expect(next).to.include({ fencingToken: seen.fencingToken, remainingMs: 180_000, value: 'w' })
      })

      it('never lowers the duration that observers have to wait, and keeps the nonce', async () => {
        const op = claim(name, 'a', 60_000)
        const first = await grant(substrate, op)
        const { fencingToken } = first
        expect(await grant(substrate, extend(name, 'a', 1_000, { fencingToken }))).to.include({ remainingMs: 60_000 })
        const longer = await grant(substrate, extend(name, 'a', 120_000, { fencingToken }))
        expect(longer).to.include({ remainingMs: 120_000, nonce: op.nonce })
        expect(await grant(substrate, op)).to.include({ fencingToken: first.fencingToken, remainingMs: 120_000 })
      })

      it('takes a new value, the empty one too', async () => {
        const seen = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        expect(await grant(substrate, extend(name, 'a', 60_000, { seen, value: '' }))).to.have.property('value', '')
        expect(await readOne(substrate, name)).to.have.property('value', '')
      })

      it('is refused with what forbids it: another holder, another term, nobody', async () => {
        expect(await settle(substrate, extend(name, 'a', 1_000))).to.deep.include({
          outcome: 'refused',
          holding: undefined,
        })
        const seen = await grant(substrate, claim(name, 'a', 60_000))
        for (const op of [
          extend(name, 'b', 1_000, { fencingToken: seen.fencingToken }),
          extend(name, 'b', 1_000, { seen }),
          extend(name, 'a', 1_000, { fencingToken: seen.fencingToken - 1n }),
          extend(name, 'a', 1_000, { fencingToken: seen.fencingToken - 1n, seen }),
        ]) {
          expect(await settle(substrate, op)).to.deep.include({ outcome: 'refused', holding: seen })
        }
        await settle(substrate, release(name, 'a'))
        const late = extend(name, 'a', 1_000, { seen })
        expect(await settle(substrate, late)).to.deep.include({ outcome: 'refused', holding: undefined })
      })
    })

    describe('release and expire', () => {
      it('vacate the very term that is meant, by token, by nonce, by both, as it was seen', async () => {
        const op = claim(name, 'a', 60_000)
        const { nonce } = op
        for (const more of [
          ({ fencingToken }: Holding) => ({ fencingToken }),
          () => ({ nonce }),
          ({ fencingToken }: Holding) => ({ fencingToken, nonce }),
          (seen: Holding) => ({ fencingToken: seen.fencingToken, nonce, seen }),
        ]) {
          const held = await grant(substrate, op)
          expect(await settle(substrate, release(name, 'a', more(held)))).to.deep.equal(vacant)
          expect(await record()).to.equal(undefined)
          expect(await settle(substrate, release(name, 'a', more(held)))).to.deep.equal(vacant)
        }
      })

      it('leave any other term alone', async () => {
        const held = await grant(substrate, claim(name, 'a', 60_000))
        for (const op of [
          release(name, 'b', { nonce: held.nonce }),
          release(name, 'b', { fencingToken: held.fencingToken }),
          release(name, 'b', { fencingToken: held.fencingToken, seen: held }),
          release(name, 'a', { fencingToken: held.fencingToken - 1n }),
          release(name, 'a', { nonce: 'another' }),
          release(name, 'a', { fencingToken: held.fencingToken, nonce: 'another' }),
          expire(name, undefined),
          expire(name, String(BigInt(held.version ?? 0) - 1n)),
        ]) {
          expect(await settle(substrate, op)).to.deep.include({ outcome: 'refused', holding: held })
        }
        expect(await readOne(substrate, name)).to.deep.equal(held)
      })

      it('an expiry ends the version that was observed to have lapsed', async () => {
        expect(await settle(substrate, expire(name, undefined))).to.deep.equal(vacant)
        expect(await settle(substrate, expire(name, '1'))).to.deep.equal(vacant)
        const { version } = await grant(substrate, claim(name, 'a', 60_000))
        expect(await settle(substrate, expire(name, version))).to.deep.equal(vacant)
        expect(await record()).to.equal(undefined)
      })
    })

    describe('pins', () => {
      it('take the key off its etcd lease with the first, and put it back with the last', async () => {
        const held = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        const pinned = await grant(substrate, pin(name, 'e', '1'))
        expect(pinned).to.deep.equal({ ...held, pinned: true, version: pinned.version })
        expect((await record())?.lease).to.equal('0')
        expect(await grant(substrate, pin(name, 'e', '2'))).to.deep.equal(pinned)
        expect(await grant(substrate, pin(name, 'f', '3'))).to.deep.equal(pinned)
        expect(await grant(substrate, extend(name, 'a', 1_000, { seen: pinned }))).to.include({ pinned: true })
        expect((await record())?.lease).to.equal('0')
        const { fencingToken } = held
        const longer = await grant(substrate, extend(name, 'a', 120_000, { fencingToken }))
        expect(longer).to.include({ pinned: true, remainingMs: 120_000 })
        expect((await record())?.lease).to.equal('0')
        expect(await grant(substrate, unpin(name, 'e', '2'))).to.include({ pinned: true })
        expect((await substrate.pinned(newCall())).get(name)).to.deep.equal(new Map([['f', '3']]))
        const unpinned = await grant(substrate, unpin(name, 'f', '3'))
        expect(unpinned).to.include({ pinned: false, fencingToken: held.fencingToken, value: 'v' })
        expect((await record())?.lease).not.to.equal('0')
        expect((await substrate.pinned(newCall())).has(name)).to.equal(false)
        expect(await grant(substrate, unpin(name, 'f', '3'))).to.deep.equal(unpinned)
      })

      it('of a vacant lease leave it vacant, and the next term has no etcd lease', async () => {
        expect(await settle(substrate, pin(name, 'e', 'g'))).to.deep.equal(vacant)
        for (const announce of [false, true]) {
          expect(await grant(substrate, claim(name, 'a', 1_000, { announce }))).to.include({ pinned: true })
          expect((await record())?.lease).to.equal('0')
          expect(await settle(substrate, release(name, 'a'))).to.deep.equal(vacant)
        }
        expect(await settle(substrate, unpin(name, 'e', 'g'))).to.deep.equal(vacant)
      })

      it('of many at once are all kept', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        const entities = Array.from({ length: 12 }, (_, index) => `e${index}`)
        await Promise.all(entities.map((entity) => settle(substrate, pin(name, entity, `of ${entity}`))))
        const pins = (await substrate.pinned(newCall(), [name])).get(name)
        expect([...(pins ?? [])]).to.deep.equal(entities.toSorted().map((entity) => [entity, `of ${entity}`]))
        await Promise.all(entities.map((entity) => settle(substrate, unpin(name, entity, `of ${entity}`))))
        expect((await substrate.pinned(newCall())).has(name)).to.equal(false)
        expect(await readOne(substrate, name)).to.include({ holder: 'a', pinned: false })
        expect((await record())?.lease).not.to.equal('0')
      })
    })

    describe('batches', () => {
      it('as large as core may make them get a verdict for each, whatever they are made of', async () => {
        const own = setting.substrate()
        const names = Array.from({ length: own.limits.maxOps }, (_, index) => `l${index}`)
        const all = async (op: (lease: string, index: number) => Op) =>
          (await own.apply(names.map(op), newCall())).map(({ outcome }) => outcome)
        const expected = names.map(() => 'granted')
        expect(await all((lease) => pin(lease, 'e', 'g'))).to.deep.equal(expected)
        expect(await all((lease) => claim(lease, 'a', 60_000))).to.deep.equal(expected)
        expect(await all((lease) => unpin(lease, 'e', 'g'))).to.deep.equal(expected)
        const seen = await own.read(undefined, newCall())
        expect(await all((lease) => extend(lease, 'a', 60_000, { seen: seen.get(lease), value: lease }))).to.deep.equal(
          expected,
        )
        const found = await own.read(undefined, newCall())
        expect([...found].map(([lease, { value }]) => lease === value)).to.deep.equal(names.map(() => true))
        const mixed = await all((lease, index) => {
          if (index % 4 === 0) return claim(lease, 'b', 60_000)
          if (index % 4 === 1) return release(lease, 'a')
          return index % 4 === 2 ? expire(lease, found.get(lease)?.version) : claim(`x${lease}`, 'b', 60_000)
        })
        expect(mixed).to.deep.equal(names.map((_, index) => (index % 4 === 0 ? 'refused' : 'granted')))
      })

      it('whose values fill more than one request, and more than one answer, arrive whole', async () => {
        const own = setting.substrate()
        const value = '\u0001'.repeat(4096) // six bytes each in JSON
        const names = Array.from({ length: 240 }, (_, index) => `l${index}`)
        for (const part of [names.slice(0, 120), names.slice(120)]) {
          const verdicts = await own.apply(
            part.map((lease) => claim(lease, 'a', 60_000, { value })),
            newCall(),
          )
          expect(new Set(verdicts.map(({ outcome }) => outcome))).to.deep.equal(new Set(['granted']))
        }
        for (const asked of [undefined, names]) {
          const found = await own.read(asked, newCall())
          expect(found.size).to.equal(240)
          expect([...found.values()].every((holding) => holding.value === value)).to.equal(true)
        }
      })

      it('a namespace larger than a page is read whole, as it was at one moment', async () => {
        const own = setting.substrate()
        const names = Array.from({ length: 2_400 }, (_, index) => `l${index}`)
        for (let from = 0; from < names.length; from += 120) {
          await own.apply(
            names.slice(from, from + 120).map((lease) => claim(lease, 'a', 60_000)),
            newCall(),
          )
        }
        expect([...(await own.read(undefined, newCall())).keys()].toSorted()).to.deep.equal(names.toSorted())
      })
    })

    it('namespaces and prefixes have nothing to do with each other', async () => {
      const others = [
        setting.substrate({ namespace: `${namespace}/l` }),
        setting.substrate({ namespace, prefix: 'p/' }),
      ]
      await grant(substrate, claim(name, 'a', 60_000))
      for (const other of others) {
        expect((await other.read(undefined, newCall())).size).to.equal(0)
        await grant(other, claim(name, 'b', 60_000))
      }
      expect(await readOne(substrate, name)).to.include({ holder: 'a' })
    })
  })
}

/** The same server, and how many transactions went to it. */
function countedRequests(setting: Setting): { readonly etcd: Setting['etcd']; txns(): number } {
  let txns = 0
  const etcd = setting.newEtcd({
    defaultCallOptions: ({ method }) => {
      if (method === 'txn') txns++
      return {}
    },
  })
  return { etcd, txns: () => txns }
}
