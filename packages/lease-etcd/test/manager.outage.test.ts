/** What applications live through when the servers, or the way to them, fail: a Manager over real connections. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrUnknown, Manager, type Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import {
  etcdTargets,
  isMatrix,
  startEtcd,
  startProxy,
  until,
  type Etcd,
  type EtcdMember,
  type Proxy,
} from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { createRequire } from 'node:module'
import { createServer, type AddressInfo } from 'node:net'
import {
  countRenewals,
  eventually,
  foundAgain,
  managed,
  noneUnheard,
  outages,
  overAccident,
  sleep,
  succeeds,
  together,
  unique,
  type Way,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

for (const target of etcdTargets(1)) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let direct: Setting
    let way: Way
    let etcd: Etcd3

    before(async () => {
      const url = target.endpoints[0] ?? ''
      direct = openSetting(target)
      const proxy = await startProxy(url)
      etcd = direct.newEtcd({ hosts: proxy.url(url) })
      way = {
        proxy,
        open: (namespace, requestTimeout = 1_000) => etcdClient({ etcd, namespace, requestTimeout }),
        claiming: /"h":"a"/,
        async stored(namespace, lease) {
          const [kv] = (await direct.etcd.get(`lease/${namespace}/l/${lease}`).exec()).kvs
          return kv && { holder: (JSON.parse(kv.value.toString()) as { h: string }).h, token: kv.create_revision }
        },
      }
    })
    after(async () => {
      await direct[Symbol.asyncDispose]()
      await way.proxy.close()
    })

    outages(() => way)

    it('servers that are back after an outage are found, however many calls overlapped', () =>
      managed(way, async (manager) => {
        const { proxy } = way
        await proxy.refuse()
        let failures = 0
        const over = new AbortController()
        // While calls of the driver overlap, they share a connection, and the pauses between its attempts grow.
        const callers = Array.from({ length: 30 }, async (_, caller) => {
          while (!over.signal.aborted) {
            const call = caller % 2 === 0 ? etcd.get('x').exec() : etcd.leaseClient.leaseGrant({ TTL: '5' })
            if (!(await succeeds(call))) failures++
            await sleep(Math.random() * 200)
          }
        })
        try {
          await eventually(() => failures > 300)
          await proxy.accept()
          await eventually(() => succeeds(manager.claim('l', 'a', 60_000)))
        } finally {
          over.abort()
          await Promise.all(callers)
        }
      }))
  })
}

for (const target of etcdTargets()) {
  describe(`a manager of ${target.name} whose members all fall silent`, () => {
    let setting: Setting
    let proxies: Proxy[]
    let hosts: string[]
    before(async () => {
      setting = openSetting(target)
      proxies = await Promise.all(target.endpoints.map((endpoint) => startProxy(endpoint)))
      hosts = proxies.map((proxy, index) => proxy.url(target.endpoints[index] ?? ''))
    })
    after(async () => {
      await setting[Symbol.asyncDispose]()
      for (const proxy of proxies) await proxy.close()
    })

    foundAgain(() => ({
      proxies,
      open: (namespace) =>
        etcdClient({ etcd: setting.newEtcd({ hosts }), namespace, watch: false, requestTimeout: 1_000 }),
      async bare() {
        const etcd = new Etcd3({ hosts: hosts[0] ?? '', ...failFast() })
        await etcd.get('x').exec()
        etcd.close()
      },
    }))
  })
}

/** As much of the gRPC of etcd3 as it takes to have a channel without calls: calls that fail make etcd3 open another. */
interface Grpc {
  readonly credentials: { createInsecure(): unknown }
  readonly Client: new (
    address: string,
    credentials: unknown,
    options: object,
  ) => { getChannel(): { getConnectivityState(connect: boolean): unknown }; close(): void }
}

/** A channel to a server that hangs up on everybody, with these pauses between attempts. */
async function knocking({ first, longest }: { readonly first: number; readonly longest: number }) {
  const grpc = createRequire(createRequire(import.meta.url).resolve('etcd3'))('@grpc/grpc-js') as Grpc
  let attempts = 0
  const server = createServer((socket) => {
    attempts++
    socket.on('error', () => {})
    socket.destroy()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), {
    ...failFast().grpcOptions,
    'grpc.initial_reconnect_backoff_ms': first,
    'grpc.max_reconnect_backoff_ms': longest,
  })
  const asking = setInterval(() => client.getChannel().getConnectivityState(true), 5)
  return {
    attempts: () => attempts,
    async [Symbol.asyncDispose]() {
      clearInterval(asking)
      client.close()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** Makes clients of one namespace, each with a driver of its own. */
function opener(setting: Setting): () => Client {
  const namespace = unique('n')
  return () => etcdClient({ etcd: setting.newEtcd(), namespace, requestTimeout: 1_000 })
}

async function goesOnWithDefaults(): Promise<void> {
  await using server = await startEtcd({ durable: true })
  const etcd = new Etcd3({ hosts: [...server.endpoints] })
  const client = etcdClient({ etcd, namespace: 'n', requestTimeout: 2_000 })
  const answered = countRenewals(client)
  const manager = new Manager({ client })
  let failures = 0
  manager.events.subscribe(({ type }) => {
    if (type === 'retrying') failures++
  })
  try {
    await eventually(() => succeeds(manager.claim('warm', 'up', 60_000)))
    const hold = await manager.hold('l', 'a', { duration: 300_000, renewEvery: 300 })
    await server.kill()
    const before = failures
    await eventually(() => failures > before)
    await server.restart()
    const soFar = answered('l')
    await eventually(() => answered('l') > soFar)
    await eventually(() => succeeds(manager.claim('m', 'a', 60_000)))
    expect(hold.held).to.equal(true)
    await hold.release()
  } finally {
    await manager.stop()
    await client.close()
    etcd.close()
  }
}

describe('a manager whose server is killed and comes back', () => {
  together({
    'holds, waiters and contenders recover by themselves, and nothing is rejected unheard': async () => {
      await using server = await startEtcd({ durable: true })
      await using setting = openSetting(server)
      await overAccident(opener(setting), async (_, noticed) => {
        await server.kill()
        await noticed()
        await server.restart()
      })
    },

    // It takes a minute where the pauses between attempts have grown.
    ...(isMatrix() ? { 'goes on with an Etcd3 of its own defaults too': goesOnWithDefaults } : {}),

    'makes pauses between attempts to connect that stay as short as failFast() says, however long the outage is':
      async () => {
        // All pauses are a twentieth, so that the outage is short. The control begins with ours at their longest, twice over.
        const { grpcOptions } = failFast()
        const first = Number(grpcOptions['grpc.initial_reconnect_backoff_ms']) / 20
        const longest = Number(grpcOptions['grpc.max_reconnect_backoff_ms']) / 20
        await using ours = await knocking({ first, longest })
        await using control = await knocking({ first: 2 * longest, longest: 2 * longest })
        // Pauses that grew without end would have made 14 attempts at most by the twentieth of the control, and fall behind.
        await until('ours to be ahead of the control after twenty attempts', () => {
          const attempts = [ours.attempts(), control.attempts()] as const
          return attempts[1] >= 20 && attempts[0] > attempts[1] ? attempts : undefined
        })
      },
  })
})

describe('a manager of three nodes whose leader is killed', () => {
  let server: Etcd
  before(async () => {
    server = await startEtcd({ nodes: 3, durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders go on; a lease that is held is never granted to another, and tokens rise', async () => {
    await using setting = openSetting(server)
    let killed: EtcdMember | undefined
    await overAccident(opener(setting), async (here) => {
      const last = new Map<string, bigint>()
      const granted: Record<string, number> = { before: 0, after: 0 }
      const now = { phase: 'before' }
      let unknown = 0
      const owners = new Map<string, string>()
      const worker = async (holder: string): Promise<void> => {
        for (let turn = 0; now.phase !== 'over'; turn++) {
          const lease = `l${turn % 5}`
          try {
            await here.claim(lease, holder, 300_000)
          } catch (error) {
            if (error instanceof ErrClaimDenied) await sleep(5)
            else if (error instanceof ErrUnknown) unknown++
            else throw error
            continue
          }
          expect(owners.get(lease)).to.equal(undefined)
          owners.set(lease, holder)
          const fencingToken = await here
            .token(lease, holder)
            .check()
            .then(
              (info) => info.fencingToken,
              () => undefined,
            )
          if (fencingToken !== undefined) {
            expect(fencingToken > (last.get(lease) ?? 0n)).to.equal(true)
            last.set(lease, fencingToken)
          }
          granted[now.phase] = (granted[now.phase] ?? 0) + 1
          owners.delete(lease)
          for (let done = false; !done && now.phase !== 'over';) {
            done = await succeeds(here.release(lease, holder))
          }
        }
      }
      const workers = Promise.all(['v', 'w', 'x', 'y'].map(worker))
      try {
        const enough = async (phase: string, count: number): Promise<void> => {
          const reached = eventually(() => (granted[phase] ?? 0) > count, `${count} grants ${phase} the loss`)
          await Promise.race([reached, workers])
        }
        await enough('before', 10)
        killed = await server.leader()
        await killed.kill()
        now.phase = 'after'
        await enough('after', 50)
      } finally {
        now.phase = 'over'
      }
      await workers
      if (process.env['LEASE_TEST_FIGURES']) console.log({ ...granted, unknown })
    })
    await killed?.restart()
  })

  it('one node of three that is down costs nothing but a second try', async () => {
    await using setting = openSetting(server)
    const client = etcdClient({ etcd: setting.newEtcd(), namespace: unique('n'), requestTimeout: 30_000 })
    const manager = new Manager({ client })
    await manager.claim('l', 'a', 60_000)
    const leader = await server.leader()
    const follower = server.members.find((member) => member !== leader)
    await follower?.kill()
    try {
      for (let turn = 0; turn < 100; turn++) await manager.claim(`l${turn}`, 'a', 60_000)
    } finally {
      await follower?.restart()
      await manager.stop()
      await client.close()
    }
  })
})

describe('failFast()', () => {
  it('has the options that an Etcd3 lacks, and they may be changed', () => {
    const { defaultCallOptions, grpcOptions } = failFast({ callTimeoutMs: 100 })
    const options = (isStream: boolean): object =>
      typeof defaultCallOptions === 'function'
        ? defaultCallOptions({ isStream, service: 'KV', method: 'range', params: {} } as never)
        : expect.fail()
    expect(options(true)).to.deep.equal({})
    const beforeMs = Date.now()
    expect(options(false))
      .to.have.property('deadline')
      .that.is.within(beforeMs + 100, Date.now() + 100)
    expect(grpcOptions['grpc.max_reconnect_backoff_ms']).to.equal(1_000)
  })
})
