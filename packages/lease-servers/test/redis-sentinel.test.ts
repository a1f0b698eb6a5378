import { expect } from 'chai'
import { Redis as Client } from 'ioredis'
import { isMatrix, type RedisSentinel, startRedisSentinel, until } from 'lease-servers'

describe('a Redis under sentinels', () => {
  /** One for each test that makes it fail over, the first of them also for the rest; they start together. */
  const sets: RedisSentinel[] = []
  let watched: RedisSentinel
  const clients: Client[] = []

  before(async () => {
    // A replica that has been cut off for ten times as long before the master is down would not be promoted.
    const options = { downAfterMs: 1000 }
    sets.push(
      ...(await Promise.all(Array.from({ length: isMatrix() ? 3 : 1 }, async () => startRedisSentinel(options)))),
    )
    use(0)
  })

  afterEach(() => {
    for (const client of clients.splice(0)) client.disconnect()
  })

  after(async () => {
    await Promise.all(sets.map(async (one) => one.stop()))
  })

  function use(index: number): void {
    const one = sets[index]
    if (one === undefined) throw new Error('too few were started')
    watched = one
  }

  function client(port: number): Client {
    const one = new Client(port)
    one.on('error', () => undefined)
    clients.push(one)
    return one
  }

  async function failedOver(): Promise<number> {
    await until('a replica is promoted', async () => (await watched.masterPort()) !== watched.master.port)
    return await watched.masterPort()
  }

  it('is found by a client that knows the sentinels, and replicates', async () => {
    expect(await watched.masterPort()).to.equal(watched.master.port)
    const found = new Client({ sentinels: [...watched.sentinels], name: watched.name })
    clients.push(found)
    await found.set('note', 'one')
    expect(await found.wait(1, 0)).to.equal(1)
    expect(await client(watched.replicas[0]?.port ?? 0).get('note')).to.equal('one')
  })

  it('replicates again once it is mended', async () => {
    const master = client(watched.master.port)
    const replica = client(watched.replicas[0]?.port ?? 0)
    await watched.cutReplication()
    await master.set('during', 'acknowledged')
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(await replica.get('during')).to.equal(null)
    await watched.mendReplication()
    await until('the replica has it', async () => (await replica.get('during')) === 'acknowledged')
  })

  it('promotes the replica when the master is killed, and a client follows', async () => {
    const found = new Client({ sentinels: [...watched.sentinels], name: watched.name })
    found.on('error', () => undefined)
    clients.push(found)
    await found.set('note', 'one')
    await found.wait(1, 0)
    await watched.master.kill()
    expect(await failedOver()).to.equal(watched.replicas[0]?.port)
    await until('the client has followed', async () =>
      found.set('note', 'two').then(
        () => true,
        () => false,
      ),
    )
    expect(await client(await watched.masterPort()).get('note')).to.equal('two')
  })

  const matrixOnly = isMatrix() ? it : it.skip // a set of five servers for each
  matrixOnly('forgets what was acknowledged while replication was cut', async () => {
    use(1)
    const master = client(watched.master.port)
    await master.set('before', 'kept')
    await master.wait(1, 0)
    await watched.cutReplication()
    expect(await master.set('during', 'acknowledged')).to.equal('OK')
    await watched.master.kill()
    const promoted = client(await failedOver())
    expect(await promoted.get('before')).to.equal('kept')
    expect(await promoted.get('during')).to.equal(null)
  })

  matrixOnly('overwrites a paused master that comes back after the failover', async () => {
    use(2)
    const old = client(watched.master.port)
    await old.set('note', 'old')
    await watched.cutReplication()
    await old.set('note', 'forgotten')
    watched.master.pause()
    const promoted = client(await failedOver())
    expect(await promoted.get('note')).to.be.oneOf(['old', null])
    await promoted.set('note', 'new')
    watched.master.resume()
    expect(await old.get('note'), 'it does not know yet').to.equal('forgotten')
    await watched.mendReplication()
    await until('it has been made a replica', async () => (await old.get('note').catch(() => null)) === 'new')
  })
})
