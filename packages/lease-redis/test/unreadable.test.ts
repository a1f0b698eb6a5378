/** What cannot be read, because something else is there or because it is on its way to another node. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrUnknown, LeaseEvents, Manager } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'
import { caught, eventually, newCall, pin, unique, unpin } from 'lease-scenes'
import { redisTargets } from 'lease-servers'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`what is not a lease under our names, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    it('is passed over by those who read, and reported once for each lease', async () => {
      const namespace = unique('ns')
      const base = `lease:{${namespace}}:`
      const events = new LeaseEvents()
      const client = redisClient({ redis: setting.redis, namespace, listen: false, events })
      const manager = new Manager({ client })
      const warnings: string[] = []
      events.subscribe((event) => {
        if (event.type === 'warning' && event.warning === 'unreadable-key') warnings.push(event.message)
      })
      await manager.claim('sound', 'a', LASTING_MS)
      await setting.redis.set(`${base}l:text`, 'text')
      await setting.redis.rpush(`${base}l:list`, 'x')
      await setting.redis.sadd(`${base}i`, 'text', 'list')
      await setting.redis.hset(`${base}p`, 'odd', 'not JSON', 'word', '"JSON"')
      for (let twice = 0; twice < 2; twice++) {
        expect([...(await manager.leases()).keys()]).to.deep.equal(['sound'])
        expect([...(await manager.pinned()).keys()]).to.deep.equal([])
        expect(await manager.find('text')).to.equal(undefined)
      }
      const named = warnings.map((message) => /lease "(\w+)"/.exec(message)?.[1])
      expect(named).to.have.members(['list', 'odd', 'text', 'word'])
      expect(await caught(manager.claim('text', 'a', LASTING_MS))).to.have.property('code', 'LEASE_UNKNOWN')
      expect(await caught(manager.token('text', 'a').check())).to.have.property('code', 'LEASE_NOT_HELD')
      await manager.stop()
      await client.close()
    })

    it('among the pins fails what is asked of that lease, and nothing else in the batch', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      await setting.redis.hset(`lease:{${namespace}}:p`, 'odd', 'not JSON')
      const ops = [pin('first', 'e', 'g'), pin('odd', 'e'), unpin('odd', 'e', 'g'), pin('last', 'e', 'g')]
      for (const op of ops.slice(1, 3)) {
        const [verdict] = await substrate.apply([op], newCall())
        expect(verdict?.outcome).to.equal('unknown')
        expect(String(verdict?.cause)).to.match(/used for something else/)
      }
      const batch = [ops[0], ops[1], ops[3]].filter((op) => op !== undefined)
      const outcomes = (await substrate.apply(batch, newCall())).map(({ outcome }) => outcome)
      expect(outcomes).to.deep.equal(['granted', 'unknown', 'granted'])
    })
  })
}

for (const target of redisTargets('cluster')) {
  describe(`a namespace whose slot is moved to another node of ${target.name}`, () => {
    it('grants nothing meanwhile, says why, and keeps its holds when that is over', async () => {
      const namespace = unique('moved')
      const base = `lease:{${namespace}}:`
      const nodes = target.nodes.map(({ host, port }) => new Redis({ host, port }))
      // Two attempts of the driver, and not sixteen.
      const cluster = new Cluster([...target.nodes], { maxRedirections: 2 })
      const client = redisClient({ redis: cluster, namespace, listen: false })
      const manager = new Manager({ client })
      try {
        const hold = await manager.hold('held', 'a', { duration: LASTING_MS })
        const guard = new RedisGuard()
        await hold.token.check(guard)
        const own = `{${namespace}}:own`
        const slot = await cluster.cluster('KEYSLOT', base)
        const places = await Promise.all(nodes.map((node) => node.exists(`${base}l:held`).catch(() => 0)))
        const from = nodes[places.indexOf(1)] ?? expect.fail('no node has the lease')
        const to = nodes[(places.indexOf(1) + 1) % nodes.length] ?? expect.fail()
        const [fromId, toId] = await Promise.all(
          [from, to].map((node) => node.call('CLUSTER', 'MYID') as Promise<string>),
        )
        await to.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', String(fromId))
        await from.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', String(toId))

        const during = async (): Promise<void> => {
          const refusal = await caught(manager.claim('l', 'a', LASTING_MS))
          expect(refusal).to.be.instanceOf(ErrUnknown)
          expect(String(refusal.cause)).to.match(/being moved to another node/)
          expect(await caught(guard.run(cluster, `return redis.call('SET', KEYS[1], 'x')`, [own]))).to.be.instanceOf(
            Error,
          )
          expect(hold.held).to.equal(true)
        }
        await during() // nothing has gone yet
        const keys = (await from.call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[]
        const gone = keys.filter((key) => key.includes(namespace))
        const { host, port } = target.nodes[nodes.indexOf(to)] ?? expect.fail()
        const move = (some: string[]): Promise<unknown> =>
          from.call('MIGRATE', host, port, '', 0, 5_000, 'KEYS', ...some)
        await move(gone.slice(0, 1))
        await during() // some are here, and some there
        await move(gone.slice(1))
        for (const node of [to, from, ...nodes]) await node.call('CLUSTER', 'SETSLOT', slot, 'NODE', String(toId))

        await eventually(async () => (await caught(manager.claim('l', 'b', LASTING_MS)).catch(() => 'done')) === 'done')
        await hold.renew()
        expect(hold.held).to.equal(true)
        expect(await guard.run(cluster, `return redis.call('SET', KEYS[1], 'x')`, [own])).to.equal('OK')
        expect(
          [...(await manager.leases())].map(([lease, { holder }]) => `${lease} ${holder}`).toSorted(),
        ).to.deep.equal(['held a', 'l b'])
      } finally {
        await manager.stop()
        await client.close()
        cluster.disconnect()
        for (const node of nodes) node.disconnect()
      }
    })
  })
}
