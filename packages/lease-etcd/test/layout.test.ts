import { expect } from 'chai'
import { Manager } from 'lease-core'
import { etcdTargets } from 'lease-servers'
import { etcdClient, type EtcdSubstrate } from 'lease-etcd'
import {
  caught,
  claim,
  extend,
  grant,
  newCall,
  noneUnheard,
  pin,
  readOne,
  release,
  settle,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

for (const target of etcdTargets(1)) {
  describe(`the layout of a namespace, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let substrate: EtcdSubstrate
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('ns')
      substrate = setting.substrate({ namespace })
    })

    const keyOf = (key: string): string => `lease/${namespace}/${key}`
    const write = (key: string, value: unknown) => setting.etcd.put(keyOf(key)).value(JSON.stringify(value))
    const keysOf = async (): Promise<string[]> => await setting.etcd.getAll().prefix(`lease/${namespace}/`).keys()

    it('has its number in the store from the first use on, whatever that is', async () => {
      for (const use of [
        () => grant(substrate, claim('l', 'a', 60_000)),
        () => substrate.read(undefined, newCall()),
        () => substrate.pinned(newCall()),
        () => settle(substrate, release('l', 'a', { nonce: 'n' })),
      ]) {
        await use()
        const [kv] = (await setting.etcd.get(keyOf('v')).exec()).kvs
        expect([String(kv?.value), kv?.version, kv?.lease]).to.deep.equal(['2', '1', '0'])
        await setting.etcd.delete().key(keyOf('v')).exec()
        namespace = unique('ns')
        substrate = setting.substrate({ namespace })
      }
    })

    it('is asked for once by each client, also by calls that begin together', async () => {
      const methods: string[] = []
      const etcd = setting.newEtcd({
        defaultCallOptions: ({ method }) => {
          methods.push(method)
          return {}
        },
      })
      const counted = setting.substrate({ namespace, etcd })
      await Promise.all([1, 2, 3].map((index) => grant(counted, claim(`l${index}`, 'a', 60_000))))
      await grant(counted, claim('m', 'a', 60_000))
      expect(methods.filter((method) => method === 'range')).to.have.lengthOf(0)
      expect(methods.filter((method) => method === 'txn')).to.have.lengthOf(6) // one asks for the number, and one puts it
    })

    it('of a later release is refused with advice, and nothing is written', async () => {
      await write('v', 3)
      const calls = [
        () => settle(substrate, claim('l', 'a', 60_000)),
        () => settle(substrate, pin('l', 'e')),
        () => substrate.counted('n#', newCall()),
        () => substrate.read(undefined, newCall()),
        () => substrate.read(['l'], newCall()),
        () => substrate.pinned(newCall()),
      ]
      for (const call of calls) {
        expect((await caught(call())).message).to.match(
          /later release .* \(layout 3 .* update lease-etcd in this process/,
        )
      }
      expect(await keysOf()).to.deep.equal([keyOf('v')])
      await write('v', 2)
      await grant(substrate, claim('l', 'a', 60_000)) // asked again after a failure
    })

    it('of a later release reaches the application as an error with the advice', async () => {
      await write('v', 3)
      const client = etcdClient({ etcd: setting.etcd, namespace, watch: false })
      const manager = new Manager({ client })
      const error = await caught(manager.claim('l', 'a', 60_000))
      expect(error).to.have.property('code', 'LEASE_UNKNOWN')
      expect(error.message).to.match(/update lease-etcd in this process/)
      await manager.stop()
      await client.close()
    })

    it('that somebody else wrote is refused', async () => {
      await write('v', 'mine')
      expect((await caught(substrate.read(undefined, newCall()))).message).to.match(/written by somebody else/)
    })

    /** What becomes of a first claim in this namespace. */
    const firstClaim = async (prefix: string, name: string): Promise<string> => {
      const one = setting.substrate({ prefix, namespace: name })
      return await settle(one, claim('x', 'a', 60_000)).then(
        ({ outcome }) => outcome,
        (error: Error) => error.message,
      )
    }

    for (const [shape, inner] of [
      ['whose prefix lies among the leases of another', { rest: 'l/', name: 'inner' }],
      ['that is called as a kind of key', { rest: '', name: 'p' }],
      ['several levels below another', { rest: 'm/some/where/', name: 'inner' }],
    ] as const) {
      it(`of a namespace ${shape} is refused, and that of the other one too, whichever comes second`, async () => {
        const innerFirst = unique('ns')
        expect(await firstClaim(`lease/${namespace}/${inner.rest}`, inner.name)).to.equal('granted')
        expect(await firstClaim('lease/', namespace)).to.match(/another namespace .* in the way .* choose a prefix/)
        expect(await firstClaim('lease/', innerFirst)).to.equal('granted')
        expect(await firstClaim(`lease/${innerFirst}/${inner.rest}`, inner.name)).to.match(
          /another namespace .* in the way/,
        )
      })
    }

    it('of two namespaces, one among the keys of the other, is given to one of them, if they come at once', async () => {
      for (let round = 0; round < 20; round++) {
        const name = unique('ns')
        const outcomes = await Promise.all([firstClaim('lease/', name), firstClaim(`lease/${name}/l/`, 'inner')])
        expect(outcomes.filter((outcome) => outcome === 'granted').length, outcomes.join(', ')).to.be.below(2)
      }
    })

    it('of namespaces that cannot meet, though the prefix of one lies below another, is no matter', async () => {
      expect(await firstClaim('lease/', namespace)).to.equal('granted')
      expect(await firstClaim(`lease/${namespace}/`, 'other')).to.equal('granted')
      await grant(substrate, claim('other/v', 'a', 60_000)) // looks like a number from outside
      await setting.etcd.delete().key(keyOf('v')).exec()
      expect(await firstClaim('lease/', namespace)).to.equal('refused')
    })

    it('1 is understood: leases are extended, adopted, taken over and released', async () => {
      const { ID: id } = await setting.etcd.leaseClient.leaseGrant({ TTL: 60 })
      for (const name of ['x', 'y', 'z']) {
        const value = Buffer.from(JSON.stringify({ h: 'a', d: 60_000, n: 'old', v: 'v' }))
        await setting.etcd.kv.put({ key: Buffer.from(keyOf(`l/${name}`)), value, lease: id })
      }
      const seen = await substrate.read(['x', 'y', 'z'], newCall())
      expect(seen.get('x')).to.include({ holder: 'a', nonce: 'old', value: 'v', pinned: false, remainingMs: 60_000 })
      await grant(substrate, extend('x', 'a', 60_000, { seen: seen.get('x') }))
      const adoption = { from: 'old', nonce: 'new' }
      await grant(substrate, extend('y', 'a', 60_000, { seen: seen.get('y'), adoption }))
      await grant(substrate, claim('z', 'b', 60_000, { lapsed: seen.get('z')?.version }))
      expect(await settle(substrate, release('x', 'a', { nonce: 'old' }))).to.have.property('outcome', 'granted')
      expect(await readOne(substrate, 'x')).to.equal(undefined)
    })

    it('1 is understood: its pins keep a lease, and are removed one by one', async () => {
      await write('p/l', ['e', 'f'])
      expect(await substrate.pinned(newCall(), ['l', 'm'])).to.deep.equal(
        new Map([
          [
            'l',
            new Map([
              ['e', '0'],
              ['f', '0'],
            ]),
          ],
        ]),
      )
      expect(await grant(substrate, claim('l', 'a', 50))).to.include({ pinned: true })
      await settle(substrate, pin('l', 'e', 'new'))
      await settle(substrate, unpin('l', 'f', '0'))
      await settle(substrate, unpin('l', 'e', '0')) // by anyone who read it before
      expect(await substrate.pinned(newCall())).to.deep.equal(new Map([['l', new Map([['e', 'new']])]]))
      await settle(substrate, unpin('l', 'e', 'new'))
      expect(await substrate.pinned(newCall())).to.deep.equal(new Map())
      expect(await readOne(substrate, 'l')).to.include({ pinned: false })
    })
  })
}
