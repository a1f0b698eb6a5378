import { expect } from 'chai'
import { LeaseEvents, systemClock, type LeaseChange } from 'lease-core'
import { etcdTargets, nodeOptions, startEtcd, startProxy } from 'lease-servers'
import { etcdClient, failFast, type EtcdSubstrate } from 'lease-etcd'
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Etcd3 } from 'etcd3'
import { claim, eventually, extend, grant, pin, release, settle, sleep, together, unique } from 'lease-scenes'
import { Layout } from '#src/layout.ts'
import { NamespaceHints } from '#src/listener.ts'
import { Watches } from '#src/watches.ts'
import { FakeStream } from './fake-stream.ts'
import { openSetting, type Setting } from './setting.ts'

/** What this substrate hears, from the first `resync` on. */
async function listen(substrate: EtcdSubstrate): Promise<LeaseChange[]> {
  const heard: LeaseChange[] = []
  substrate.watch?.((change) => heard.push(change))
  await eventually(() => heard.length > 0)
  expect(heard).to.deep.equal([{ kind: 'resync' }])
  return heard
}

/** Without keepalive: a stall of this process must not end the connection, and cause another `resync`. */
const unhurried = { grpcOptions: {} }

const resyncs = (heard: readonly LeaseChange[]): number => heard.filter(({ kind }) => kind === 'resync').length

describe('hints of watches that are behind each other', () => {
  it('are reported once where no watch ever begins', async () => {
    const driver = new Etcd3({ hosts: '127.0.0.1:1', ...failFast() })
    const events = new LeaseEvents()
    const client = etcdClient({ events, etcd: driver, namespace: 'n' })
    const warnings: string[] = []
    events.subscribe((event) => {
      if (event.type === 'warning' && event.warning === 'no-hints') warnings.push(event.message)
    })
    const stop = client.subscribe(() => {})
    await eventually(() => warnings.length > 0)
    expect(warnings).to.have.length(1)
    expect(warnings[0]).to.match(/failed 5 times in a row \(.+\)/)
    stop()
    await client.close()
    driver.close()
  })

  it('do not tell who was granted a lease after it has become vacant again', async () => {
    const stream = new FakeStream()
    const watches = Watches.of(stream.driver, systemClock)
    const heard: LeaseChange[] = []
    const layout = new Layout('lease/', 'n')
    const hints = new NamespaceHints({ watches, layout, login: async () => {}, onDenied: () => {} })
    hints.add((change) => heard.push(change))
    await stream.answersCreates(3)
    const says = (kind: 'l' | 's' | 'a', lease: string, revision: number, value: object = {}): void => {
      const key = `lease/n/${kind}/${lease}`
      stream.says(key.slice(0, 10), { key, revision, value: JSON.stringify(value), version: kind === 'l' ? '0' : '1' })
    }
    const taken = (place: number) => ({ taken: [['x', place, 60_000]] })
    says('l', 'x', 11)
    says('s', 'x', 10, taken(1)) // was before
    says('s', 'y', 10, taken(2)) // of another lease
    says('s', 'x', 12, taken(3))
    says('l', 'x', 13)
    says('a', 'x', 12)
    says('s', 'x', 12, taken(3))
    const hint = (place: number) => ({ kind: 'taken', lease: 'x', place, durationMs: 60_000, to: undefined })
    expect(heard).to.deep.equal([
      { kind: 'resync' },
      { kind: 'vacated', lease: 'x' },
      hint(2),
      hint(3),
      { kind: 'vacated', lease: 'x' },
      { kind: 'changed', lease: 'x' },
    ])
    await hints.close()
  })
})

for (const target of etcdTargets(1)) {
  describe(`hints, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    together({
      'tell of releases, expiries, takeovers and keys that vanish, and of no claim or extension': async () => {
        const namespace = unique('ns')
        const heard = await listen(setting.substrate({ namespace, etcd: setting.newEtcd(unhurried) }))
        const substrate = setting.substrate({ namespace })
        const seen = await grant(substrate, claim('ä', 'a', 60_000))
        await grant(substrate, extend('ä', 'a', 60_000, { seen }))
        await settle(substrate, release('ä', 'a'))
        let { version } = await grant(substrate, claim('e', 'a', 60_000))
        await settle(substrate, { kind: 'expire', lease: 'e', lapsed: version })
        ;({ version } = await grant(substrate, claim('t', 'a', 60_000)))
        await grant(substrate, claim('t', 'b', 60_000, { lapsed: version }))
        await grant(substrate, claim('v', 'a', 50))
        await grant(setting.substrate(), claim('ä', 'a', 50)) // another namespace
        await eventually(() => heard.length >= 5)
        expect(heard.slice(1)).to.deep.equal(['ä', 'e', 't', 'v'].map((lease) => ({ kind: 'vacated', lease })))
      },

      'tell of the claims and new values that are announced, of pinned leases too, and once of each': async () => {
        const namespace = unique('ns')
        const heard = await listen(setting.substrate({ namespace, etcd: setting.newEtcd(unhurried) }))
        const substrate = setting.substrate({ namespace })
        for (const lease of ['l', 'p']) {
          if (lease === 'p') await settle(substrate, pin(lease, 'e'))
          const { fencingToken } = await grant(substrate, claim(lease, 'a', 60_000, { announce: true }))
          await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, announce: true }))
          await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, announce: true, value: 'v' }))
          await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, announce: true, value: 'v' }))
          await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, value: 'w' }))
          await settle(substrate, claim(lease, 'b', 60_000, { announce: true }))
        }
        await eventually(() => heard.length >= 5)
        await sleep(100)
        expect(heard.slice(1)).to.deep.equal(['l', 'l', 'p', 'p'].map((lease) => ({ kind: 'changed', lease })))
        const { kvs } = await setting.etcd.getAll().prefix(`lease/${namespace}/a/`).exec()
        expect(kvs.map(({ lease }) => lease)).not.to.include('0') // they go by themselves
      },

      'a connection that is cut is made anew, with a resync': async () => {
        const url = target.endpoints[0] ?? ''
        await using proxy = await startProxy(url)
        const namespace = unique('ns')
        const heard = await listen(setting.substrate({ namespace, etcd: setting.newEtcd({ hosts: proxy.url(url) }) }))
        for (let cuts = 1; cuts <= 3; cuts++) {
          const before = resyncs(heard)
          proxy.cut()
          await eventually(() => resyncs(heard) > before)
        }
        const substrate = setting.substrate({ namespace })
        await grant(substrate, claim('l', 'a', 60_000))
        await settle(substrate, release('l', 'a'))
        await eventually(() => heard.at(-1)?.kind === 'vacated')
        expect(heard.filter(({ kind }) => kind === 'vacated')).to.have.length(1)
      },

      'a connection that falls silent is noticed and made anew': async () => {
        const url = target.endpoints[0] ?? ''
        await using proxy = await startProxy(url)
        const heard = await listen(setting.substrate({ etcd: setting.newEtcd({ hosts: proxy.url(url) }) }))
        proxy.pause()
        const { connections } = proxy.counters
        await eventually(() => proxy.counters.connections > connections)
        proxy.resume()
        await eventually(() => resyncs(heard) > 1)
      },

      'a server that was not there yet is found later': async () => {
        const url = target.endpoints[0] ?? ''
        await using proxy = await startProxy(url)
        await proxy.refuse()
        const heard: LeaseChange[] = []
        const substrate = setting.substrate({ etcd: setting.newEtcd({ hosts: proxy.url(url) }) })
        substrate.watch?.((change) => heard.push(change))
        await sleep(300)
        expect(heard).to.deep.equal([])
        await proxy.accept()
        await eventually(() => resyncs(heard) > 0)
      },

      'end with the last listener, harm no other call, and may begin again': async () => {
        const etcd = setting.newEtcd()
        const substrate = setting.substrate({ etcd })
        for (let round = 0; round < 5; round++) {
          const heard: LeaseChange[] = []
          const stop = substrate.watch?.((change) => heard.push(change))
          await eventually(() => resyncs(heard) >= 1)
          const pending = Array.from({ length: 50 }, () => settle(substrate, claim(unique('l'), 'a', 60_000)))
          stop?.()
          await Promise.all(pending)
          await grant(substrate, claim('l', 'a', 60_000))
          await settle(substrate, release('l', 'a'))
          expect(heard).to.deep.equal([{ kind: 'resync' }])
        }
      },

      'of a member that has lost its leader end at once instead of falling silent, and begin again when there is one':
        async () => {
          await using server = await startEtcd({ nodes: 3 })
          await using member = openSetting({ endpoints: [server.members[0]?.endpoint ?? ''] })
          const heard: LeaseChange[] = []
          let watches = 0
          const etcd = member.newEtcd({
            ...failFast(),
            defaultCallOptions: ({ isStream }) => {
              if (isStream) watches++
              return {}
            },
          })
          member.substrate({ etcd }).watch?.((change) => heard.push(change))
          await eventually(() => resyncs(heard) > 0)
          const before = { watches, resyncs: resyncs(heard) }
          for (const other of server.members.slice(1)) other.pause()
          try {
            await eventually(() => watches > before.watches)
            expect(resyncs(heard)).to.equal(before.resyncs)
          } finally {
            server.resume()
          }
          await eventually(() => resyncs(heard) > before.resyncs)
        },
    })

    it('a process whose client and Etcd3 are closed ends', async () => {
      const script = `
        import { Etcd3 } from 'etcd3'
        import { etcdClient, failFast } from 'lease-etcd'
        const etcd = new Etcd3({ hosts: ${JSON.stringify(target.endpoints)}, ...failFast() })
        const client = etcdClient({ etcd, namespace: 'end' })
        await new Promise((resolve) => client.subscribe(resolve))
        await client.claimLease('l', { holder: 'a', duration: 60_000 })
        await client.close()
        etcd.close()
        console.log('closed')`
      const args = [...nodeOptions(import.meta.url), '--input-type', 'module', '--eval', script]
      const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname })
      expect(stdout).to.equal('closed\n')
    })
  })
}
