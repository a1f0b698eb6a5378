/** Members, and connections, that take calls and leave them unanswered. */
import { expect } from 'chai'
import { failFast } from 'lease-etcd'
import { systemClock } from 'lease-core'
import { etcdTargets, startProxy, until, type Proxy } from 'lease-servers'
import type { Etcd3 } from 'etcd3'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { claim, newCall, noneUnheard, together, unique } from 'lease-scenes'
import { Watches } from '#src/watches.ts'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** How long a member that was silent is avoided, as `members.ts` has it. */
const AVOIDED_MS = 10_000

/** The class of the error with which a call fails. */
const failureWithin = (etcd: Etcd3, ms: number): Promise<string | undefined> =>
  etcd.kv.range({ key: Buffer.from('x') }, { deadline: Date.now() + ms }).then(
    () => undefined,
    (error: Error) => error.constructor.name,
  )

/** Until a call is answered; each that fails has been sent. */
const untilAnswered = (etcd: Etcd3): Promise<unknown> =>
  until('a call that is answered', async () => {
    const failure = await failureWithin(etcd, 10_000)
    if (failure !== undefined) expect(failure).to.match(/Unavailable|Deadline/)
    return failure === undefined
  })

const answersWithin = async (etcd: Etcd3, ms: number): Promise<boolean> => (await failureWithin(etcd, ms)) === undefined

/** A way to the server on which each connection stays silent from its first byte, while it is asked to. */
async function mutable(url: string) {
  const target = new URL(url)
  const sockets = new Set<Socket>()
  const seen = { connections: 0, silent: 0 }
  const mute = { next: 0 }
  const server = createServer((client) => {
    seen.connections++
    sockets.add(client)
    client.on('error', () => {})
    if (mute.next > 0) {
      mute.next--
      seen.silent++
      client.on('data', () => {})
      return
    }
    const upstream = connect(Number(target.port), target.hostname)
    sockets.add(upstream)
    upstream.on('error', () => {})
    upstream.on('close', () => client.destroy())
    client.on('close', () => upstream.destroy())
    client.pipe(upstream).pipe(client)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const cut = (): void => sockets.forEach((socket) => socket.destroy())
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    /** Cuts all connections; the next ones, so many, stay silent. */
    mute(connections: number) {
      mute.next = connections
      cut()
    },
    async [Symbol.asyncDispose]() {
      cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

for (const target of etcdTargets(1)) {
  describe(`silent members and connections, on ${target.name}`, () => {
    const url = (): string => target.endpoints[0] ?? ''
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    /** Three ways to the server, which etcd3 takes for three members; the first is silent. */
    const members = async (use: (hosts: string[], silent: Proxy) => Promise<void>): Promise<void> => {
      await using silent = await startProxy(url())
      await using second = await startProxy(url())
      await using third = await startProxy(url())
      silent.pause()
      await use(
        [silent, second, third].map((proxy) => proxy.url(url())),
        silent,
      )
    }

    together({
      'a request that a member leaves unanswered is answered by another member before the call is over': () =>
        members(async (hosts, silent) => {
          await until('a claim that met the silent member is granted', async () => {
            const substrate = setting.substrate({ etcd: setting.newEtcd({ hosts }) })
            const { connections } = silent.counters
            const [verdict] = await substrate.apply([claim('l', 'a', 60_000)], newCall({ timeoutMs: 4_000 }))
            return silent.counters.connections > connections && verdict?.outcome === 'granted'
          })
        }),

      'a request whose new connection stays silent is answered over another one before the call is over, of one host too':
        async () => {
          await using way = await mutable(url())
          const substrate = setting.substrate({ etcd: setting.newEtcd({ hosts: way.url }) })
          await until('a claim that met the silent connection is granted', async () => {
            const { silent } = way.seen
            way.mute(1)
            const [verdict] = await substrate.apply([claim(unique('l'), 'a', 60_000)], newCall({ timeoutMs: 4_000 }))
            return way.seen.silent > silent && verdict?.outcome === 'granted'
          })
        },

      'a member that was silent gets no more calls while others answer, but one every ten seconds': () =>
        members(async (hosts, silent) => {
          const etcd = setting.newEtcd({ hosts })
          const substrate = setting.substrate({ etcd })
          const beganMs = performance.now()
          await until(
            'a call that the silent member leaves unanswered',
            async () => !(await answersWithin(etcd, 300)) && silent.counters.connections > 0,
          )
          const { connections } = silent.counters
          for (let turn = 0; turn < 30; turn++) {
            const [verdict] = await substrate.apply([claim(unique('l'), 'a', 60_000)], newCall({ timeoutMs: 60_000 }))
            expect(verdict?.outcome).to.equal('granted')
          }
          const triedAgain = Math.floor((performance.now() - beganMs) / AVOIDED_MS)
          expect(silent.counters.connections - connections).to.be.at.most(triedAgain)
        }),

      'a member that was silent is asked all the same where no other answers': () =>
        members(async ([silent = '', ...others], proxy) => {
          const etcd = setting.newEtcd({ hosts: [silent, ...others.map(() => 'http://127.0.0.1:1')] })
          await until('all members have failed', async () => {
            expect(await failureWithin(etcd, 300)).to.match(/Unavailable|Deadline/)
            return proxy.counters.connections > 0
          })
          proxy.resume()
          await untilAnswered(etcd)
        }),

      'a member is not avoided for the sake of the members of another Etcd3 that was made with the same options':
        async () => {
          const options = failFast()
          await using proxy = await startProxy(url())
          await using other = await startProxy(url())
          const etcd = setting.newEtcd({ ...options, hosts: proxy.url(url()) })
          const second = setting.newEtcd({ ...options, hosts: other.url(url()) })
          expect(await answersWithin(second, 60_000)).to.equal(true)
          await proxy.refuse()
          expect(await answersWithin(etcd, 60_000)).to.equal(false)
          await proxy.accept()
          await untilAnswered(etcd)
        },

      'a new connection that stays silent costs one call, and the next call has a connection of its own': async () => {
        await using way = await mutable(url())
        const etcd = setting.newEtcd({ hosts: way.url })
        await until('a call is answered', () => answersWithin(etcd, 10_000))
        for (const silent of [1, 3]) {
          const before = way.seen.silent
          way.mute(silent)
          await until('all silent connections have been met', async () => {
            await answersWithin(etcd, 300)
            return way.seen.silent === before + silent
          })
          await answersWithin(etcd, 300) // it may wait on the last of them
          expect(await answersWithin(etcd, 15_000), `after ${silent} silent connections`).to.equal(true)
        }
      },

      'a watch whose new connection stays silent is given up, and the next one begins on another connection':
        async () => {
          await using way = await mutable(url())
          way.mute(1)
          // Nothing but the watch uses this Etcd3, so no other call finds out.
          const watches = Watches.of(setting.newEtcd({ hosts: way.url }), systemClock)
          const letGo = watches.keep(async () => {})
          let begun = 0
          const close = watches.open(
            { key: Buffer.from('x'), filters: [] },
            { begun: () => void begun++, event: () => {}, denied: () => {} },
          )
          await until('a watch that begins', () => begun > 0)
          expect(way.seen.silent).to.equal(1)
          close()
          await letGo()
        },
    })
  })
}
