import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import {
  enoughOf,
  type Etcd,
  etcdTargets,
  isMatrix,
  opaqueProtocol,
  type Proxy,
  startEtcd,
  startProxy,
  until,
} from 'lease-servers'
import { runs } from './runs.ts'

async function withClient<T>(
  endpoints: readonly string[],
  use: (client: Etcd3) => Promise<T>,
  withinMs = 60_000,
): Promise<T> {
  const client = new Etcd3({
    hosts: [...endpoints],
    defaultCallOptions: (call) => (call.isStream ? {} : { deadline: Date.now() + withinMs }),
  })
  try {
    return await use(client)
  } finally {
    client.close()
  }
}

/** Writes, again and again while an election is under way. */
async function put(endpoints: readonly string[], key: string, value: string): Promise<void> {
  await whenLed(async () => withClient(endpoints, async (client) => client.put(key).value(value).exec()))
}

/** Reads, again and again while an election is under way. */
async function get(endpoints: readonly string[], key: string): Promise<string | null> {
  return await whenLed(async () => withClient(endpoints, async (client) => client.get(key).string()))
}

async function whenLed<T>(call: () => Promise<T>): Promise<T> {
  const { answer } = await until('etcd answers', async () => {
    try {
      return { answer: await call() }
    } catch (error) {
      if (/UNAVAILABLE|timed out|leader|DEADLINE/i.test(String(error))) return undefined
      throw error
    }
  })
  return answer
}

for (const target of etcdTargets()) {
  describe(`the shared ${target.name}`, () => {
    it('takes a write at one endpoint and tells of it at all', async () => {
      const key = `etcd.test:${process.pid}:${target.name}`
      const [first = ''] = target.endpoints
      await put([first], key, 'one')
      for (const endpoint of target.endpoints) expect(await get([endpoint], key)).to.equal('one')
      await withClient(target.endpoints, async (client) => client.delete().key(key).exec())
    })
  })
}

const matrixOnly = isMatrix() ? it : it.skip // each waits for an election of three nodes

for (const nodes of enoughOf([1, 3] as const)) {
  describe(`an etcd of one’s own, nodes: ${nodes}`, () => {
    let etcd: Etcd

    before(async () => {
      etcd = await startEtcd({ nodes })
    })

    after(async () => {
      await etcd.stop()
    })

    it('has as many members, and one leads', async () => {
      expect(etcd.endpoints).to.deep.equal(etcd.members.map((member) => member.endpoint))
      expect(new Set(etcd.endpoints).size).to.equal(nodes)
      const leader = await etcd.leader()
      expect(etcd.members).to.include(leader)
      const status = await withClient([leader.endpoint], async (client) => client.maintenance.status())
      expect(status.leader).to.equal(status.header.member_id)
      expect(status.version).to.equal(etcd.version)
    })

    it('answers nothing while paused, and everything afterwards', async () => {
      etcd.pause()
      let answered = false
      const answer = put(etcd.endpoints, 'note', 'one').then(() => (answered = true))
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(answered).to.equal(false)
      etcd.resume()
      await answer.catch(() => undefined) // an election may have come in between
      await etcd.leader()
      await put(etcd.endpoints, 'note', 'two')
      expect(await get(etcd.endpoints, 'note')).to.equal('two')
    })

    it('keeps endpoints and data over a restart, and over a kill of all', async () => {
      const { endpoints } = etcd
      const pids = etcd.members.map((member) => member.pid)
      await put(endpoints, 'kept', 'one')
      await etcd.restart()
      expect(etcd.members.map((member) => member.pid)).not.to.include.members(pids)
      expect(await get(endpoints, 'kept')).to.equal('one')
      await put(endpoints, 'kept', 'two')
      await etcd.kill()
      expect(etcd.members.map((member) => member.pid)).to.deep.equal(etcd.members.map(() => undefined))
      await etcd.restart()
      expect(await get(endpoints, 'kept')).to.equal('two')
      expect(etcd.endpoints).to.deep.equal(endpoints)
    })

    it('leaves no process, even when stopped while paused', async () => {
      const pids = etcd.members.flatMap(({ pid }) => pid ?? [])
      expect(pids.filter(runs)).to.have.length(nodes)
      etcd.pause()
      await etcd.stop()
      await etcd.stop()
      expect(pids.filter(runs)).to.deep.equal([])
    })
  })
}

describe('an etcd of three nodes', () => {
  let etcd: Etcd

  before(async () => {
    etcd = await startEtcd({ nodes: 3 })
  })

  after(async () => {
    await etcd.stop()
  })

  it('elects another leader when one is killed, and takes it back with its data', async () => {
    await put(etcd.endpoints, 'kept', 'one')
    const first = await etcd.leader()
    await first.kill()
    expect(first.pid).to.equal(undefined)
    const second = await etcd.leader()
    expect(second).not.to.equal(first)
    await put([second.endpoint], 'kept', 'two')
    await first.restart()
    expect(await get([first.endpoint], 'kept')).to.equal('two')
  })

  matrixOnly('elects another leader when one is paused', async () => {
    const first = await etcd.leader()
    first.pause()
    const second = await etcd.leader()
    expect(second).not.to.equal(first)
    await put([second.endpoint], 'note', 'one')
    first.resume()
    await etcd.leader()
    expect(await get([first.endpoint], 'note')).to.equal('one')
  })

  matrixOnly('has no leader, and says so, when a majority is gone', async () => {
    const [one, two, three] = etcd.members
    await Promise.all([one?.kill(), two?.kill()])
    const failure: unknown = await withClient(
      [three?.endpoint ?? ''],
      async (client) => client.get('note').string(),
      500,
    ).catch((error: unknown) => error)
    expect(failure).to.be.instanceOf(Error)
    await Promise.all([one?.restart(), two?.restart()])
    await etcd.leader()
    await put(etcd.endpoints, 'note', 'one')
  })
})

matrixOnly(
  'an etcd whose members reach each other through proxies loses one that is cut off, and takes it back',
  async () => {
    const proxies: Proxy[] = []
    const peerVia = async (url: string): Promise<string> => {
      const proxy = await startProxy(Number(new URL(url).port), opaqueProtocol)
      proxies.push(proxy)
      return proxy.url(url)
    }
    await using etcd = await startEtcd({ nodes: 3, peerVia })
    try {
      const first = await etcd.leader()
      const id = BigInt((await first.status())?.id ?? 0).toString(16)
      const index = etcd.members.indexOf(first)
      // From the others to it, and, by the name that it gives, from it to the others.
      const cuts = proxies.map((proxy, peer) =>
        proxy.impair(peer === index ? { kind: 'drop' } : { kind: 'drop', on: { first: `X-Server-From: ${id}` } }),
      )
      await until('another leader', async () => (await etcd.leader()) !== first)
      const second = await etcd.leader()
      await put([second.endpoint], 'note', 'one')
      for (const [peer, cut] of cuts.entries()) proxies[peer]?.mend(cut)
      expect(await get([first.endpoint], 'note')).to.equal('one')
    } finally {
      for (const proxy of proxies) await proxy.close()
    }
  },
)

it('an etcd says at once what is wrong with its settings', async () => {
  const failure: unknown = await startEtcd({ settings: { 'no-such-flag': '1' } }).catch((error: unknown) => error)
  expect(String(failure)).to.match(/does not start:[^]*no-such-flag/)
})
