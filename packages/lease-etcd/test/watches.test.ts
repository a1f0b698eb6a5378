/** Many watches on one stream: what becomes of them when it breaks, when the server refuses, and when history is gone. */
import { expect } from 'chai'
import { systemClock } from 'lease-core'
import { etcdTargets, startProxy } from 'lease-servers'
import { claim, eventually, grant, newCall, noneUnheard, release, settle, sleep, together, unique } from 'lease-scenes'
import type { LeaseChange } from 'lease-core'
import type { EtcdDriver } from 'lease-etcd'
import { ClientHints } from '#src/client-hints.ts'
import { KnownGates } from '#src/gates.ts'
import { Layout } from '#src/layout.ts'
import { NO_DELETES, Watches } from '#src/watches.ts'
import { FakeStream } from './fake-stream.ts'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** What a watch has reported, in words. */
function listening(): { readonly told: string[]; readonly listener: Parameters<Watches['open']>[1] } {
  const told: string[] = []
  return {
    told,
    listener: {
      begun: (revision, isLate) => told.push(`begun ${revision}${isLate ? ' late' : ''}`),
      event: ({ key }, { revision, isRemoved }) =>
        told.push(`${isRemoved ? 'removed' : 'put'} ${key.toString()} ${revision}`),
      denied: (reason) => told.push(`denied: ${reason}`),
    },
  }
}

const range = (key: string) => ({ key: Buffer.from(key), filters: [] })

describe('watches on one stream', () => {
  let stream: FakeStream
  let watches: Watches
  let logins: number
  let letGo: () => Promise<void>
  beforeEach(() => {
    stream = new FakeStream()
    watches = Watches.of(stream.driver, systemClock)
    logins = 0
    letGo = watches.keep(async () => logins++)
  })
  afterEach(() => letGo())

  it('get what is theirs, from the revision at which they have begun', async () => {
    const [one, other] = [listening(), listening()]
    watches.open(range('a'), one.listener)
    watches.open(range('b'), other.listener)
    await stream.answersCreates(2, 7)
    stream.says('a', { key: 'a', revision: 8 }, { key: 'a', revision: 9, version: '0' })
    stream.says('b', { key: 'b', revision: 10 })
    expect(one.told).to.deep.equal(['begun 7', 'put a 8', 'removed a 9'])
    expect(other.told).to.deep.equal(['begun 7', 'put b 10'])
    expect(stream.opened).to.equal(1)
  })

  it('from a revision of the past tell of what came after it', async () => {
    const { told, listener } = listening()
    watches.open(range('a'), listener, { since: '3' })
    await stream.answersCreates(1, 7)
    expect(stream.creates[0]?.start_revision).to.equal('4')
    expect(told).to.deep.equal(['begun 3'])
  })

  it('begin again on a new stream, from then on, those last that are to be the last', async () => {
    const [one, last, later] = [listening(), listening(), listening()]
    watches.open(range('a'), one.listener, { since: '3' })
    watches.open(range('z'), last.listener, { last: true })
    await stream.answersCreates(2)
    watches.open(range('b'), later.listener)
    await stream.answersCreates(1)
    stream.breaks()
    await eventually(() => stream.opened === 2 && stream.creates.length === 3)
    expect(stream.creates.map(({ key }) => String(key))).to.deep.equal(['a', 'b', 'z'])
    expect(stream.creates.map(({ start_revision }) => start_revision)).to.deep.equal([undefined, undefined, undefined])
    await stream.answersCreates(3, 20)
    expect(one.told).to.deep.equal(['begun 3', 'begun 20'])
  })

  it('opened while there is no stream lose nothing of what came since their revision', async () => {
    const [one, late] = [listening(), listening()]
    watches.open(range('a'), one.listener)
    await stream.answersCreates(1)
    stream.breaks()
    watches.open(range('b'), late.listener, { since: '6' })
    await eventually(() => stream.opened === 2 && stream.creates.length === 2)
    expect(stream.creates[1]?.start_revision).to.equal('7')
  })

  it('whose history was compacted begin anew, and say that something is lost', async () => {
    const { told, listener } = listening()
    watches.open(range('a'), listener, { since: '3' })
    await stream.answersCreates(1)
    const id = stream.creates[0]?.watch_id ?? expect.fail()
    stream.answer(id, { revision: 9, created: false, canceled: true, compact_revision: '8' })
    expect(stream.creates[1]?.start_revision).to.equal(undefined)
    await stream.answersCreates(1, 9)
    expect(told).to.deep.equal(['begun 3', 'begun 9 late'])
  })

  it('that are closed tell no more, also where that crosses their beginning', async () => {
    const { told, listener } = listening()
    const close = watches.open(range('a'), listener)
    const closeEarly = watches.open(range('b'), listener)
    await eventually(() => stream.creates.length === 2)
    closeEarly()
    await stream.answersCreates(2, 7)
    stream.says('b', { key: 'b', revision: 8 })
    close()
    stream.says('a', { key: 'a', revision: 9 })
    close()
    expect(told).to.deep.equal(['begun 7'])
    const [a, b] = stream.creates.map(({ watch_id }) => watch_id)
    expect(new Set(stream.cancels)).to.deep.equal(new Set([a, b]))
  })

  it('that are refused are tried once more after a login; then only what is refused ends', async () => {
    const [one, other] = [listening(), listening()]
    watches.open(range('a'), one.listener)
    watches.open(range('b'), other.listener)
    const refused = { revision: 5, canceled: true, cancel_reason: 'permission denied' }
    await eventually(() => stream.creates.length === 2)
    stream.answer('-1', refused)
    await eventually(() => stream.opened === 2 && stream.creates.length === 2)
    expect(logins).to.equal(1)
    stream.answer('-1', refused) // in the turn of the first
    stream.answer(stream.creates[1]?.watch_id ?? '', { revision: 5 })
    expect(one.told).to.deep.equal(['denied: permission denied'])
    expect(other.told).to.deep.equal(['begun 5'])
    await sleep(300)
    expect(stream.opened).to.equal(2)
  })
})

describe('a ticket', () => {
  const ticketKey = (place: number, client: string): string =>
    `lease/n/t/l/${String(place).padStart(16, '0')}/${client}`

  const nearest = (...places: readonly number[]) =>
    places.map((place) => ({ place, client: `c${place}`, durationMs: 1_000, weight: 1, leaves: false }))

  /** Waits with the ticket 9, behind 7 and 8, and hears what it is notified. */
  const waiting = async (stream: FakeStream): Promise<{ hints: ClientHints; heard: LeaseChange[] }> => {
    const hints = new ClientHints({
      gates: new KnownGates(),
      watches: Watches.of(stream.driver, systemClock),
      layout: new Layout('lease/', 'n'),
      clock: systemClock,
      client: 'c',
      login: async () => {},
      onDenied: () => {},
    })
    const heard: LeaseChange[] = []
    hints.add((change) => heard.push(change))
    await stream.answersCreates(1, 10)
    const ahead = { count: 2, nearest: nearest(8, 7) }
    const joined = hints.join('l', { place: 9, ahead, leftMs: 60_000 })
    await stream.answersCreates(1, 11)
    await joined
    hints.queued('l', 9, ahead, '12')
    expect(heard.splice(0)).to.deep.equal([{ kind: 'resync' }])
    return { hints, heard }
  }
  const removed = (place: number, revision: number) => ({ key: ticketKey(place, `c${place}`), revision, version: '0' })
  const taken = { kind: 'taken', lease: 'l', place: 8, durationMs: 1_000, to: { place: 9, ahead: 0 } }
  const vacated = { kind: 'vacated', lease: 'l', to: { place: 9, ahead: 0 } }

  it('that is the first looks where it may have missed a vacancy, and not otherwise', async () => {
    for (const [begunAt, expected] of [
      [21, [taken]],
      [23, [taken, vacated]],
    ] as const) {
      const stream = new FakeStream()
      const { hints, heard } = await waiting(stream)
      stream.says('lease/n/t/', removed(7, 20))
      expect(heard).to.deep.equal([])
      stream.says('lease/n/t/', removed(8, 22))
      await stream.answersCreates(1, begunAt) // the watch of the lease
      expect(heard).to.deep.equal(expected)
      await hints.close()
    }
  })

  it('that is the first because those ahead have left looks where it may have missed a vacancy, and not otherwise', async () => {
    for (const [begunAt, expected] of [
      [22, []],
      [24, [vacated]],
    ] as const) {
      const stream = new FakeStream()
      const { hints, heard } = await waiting(stream)
      for (const [place, revision] of [
        [7, 20],
        [8, 22],
      ] as const) {
        const leaving = { ...removed(place, revision), version: '2', value: '{"leaves":true}' }
        stream.says('lease/n/t/', leaving, removed(place, revision + 1))
      }
      await stream.answersCreates(1, begunAt) // the watch of the lease
      expect(heard).to.deep.equal(expected)
      await hints.close()
    }
  })

  it('does not hear that the lease was taken after the vacancy that followed', async () => {
    const stream = new FakeStream()
    const { hints, heard } = await waiting(stream)
    stream.says('lease/n/t/', removed(7, 20))
    await stream.answersCreates(1, 20)
    stream.says('lease/n/l/', { key: 'lease/n/l/l', revision: 30, version: '0' })
    stream.says('lease/n/t/', removed(8, 22)) // its watch was behind
    expect(heard).to.deep.equal([{ ...vacated, to: { place: 9, ahead: 1 } }, vacated])
    await hints.close()
  })

  const leaving = (place: number, revision: number) => [
    { ...removed(place, revision), version: '2', value: '{"leaves":true}' },
    removed(place, revision + 1),
  ]
  const vacancy = (revision: number) => ({ key: 'lease/n/l/l', revision, version: '0' })
  const toTheSecond = { ...vacated, to: { place: 9, ahead: 1 } }

  it('is not notified of one who has gone by an answer that is older than that', async () => {
    const stream = new FakeStream()
    const { hints, heard } = await waiting(stream)
    stream.says('lease/n/t/', ...leaving(8, 20))
    await stream.answersCreates(1, 22) // the watch of the lease
    hints.queued('l', 9, { count: 2, nearest: nearest(8, 7) }, '19')
    expect(heard.splice(0), 'it looks, for it may have missed a vacancy').to.deep.equal([toTheSecond])
    stream.says('lease/n/l/', vacancy(30))
    expect(heard.splice(0)).to.deep.equal([toTheSecond])
    stream.says('lease/n/t/', removed(7, 32))
    expect(heard).to.deep.equal([{ ...taken, place: 7 }])
    await hints.close()
  })

  it('that is the first by what was heard before the answer is notified of a vacancy that came after it', async () => {
    const stream = new FakeStream()
    const { hints, heard } = await waiting(stream)
    stream.says('lease/n/t/', removed(7, 18), removed(8, 20))
    await stream.answersCreates(1, 20) // the watch of the lease
    stream.says('lease/n/l/', vacancy(30))
    expect(heard.splice(0)).to.deep.equal([taken, vacated])
    hints.queued('l', 9, { count: 1, nearest: nearest(8) }, '19')
    expect(heard[0]).to.deep.equal(vacated)
    await hints.close()
  })

  it('looks where what it should have heard was compacted', async () => {
    const stream = new FakeStream()
    const { hints, heard } = await waiting(stream)
    const { watch_id = '' } = stream.creates.find(({ key }) => key.toString().startsWith('lease/n/t/')) ?? {}
    stream.answer(watch_id, { revision: 30, created: false, canceled: true, compact_revision: '25' })
    await stream.answersCreates(1, 31)
    expect(heard).to.deep.equal([{ ...vacated, to: { place: 9, ahead: 2 } }])
    await hints.close()
  })

  it('hears that a waiter ahead leaves also while it begins to watch one that has come back farther ahead', async () => {
    const stream = new FakeStream()
    const { hints, heard } = await waiting(stream)
    hints.queued('l', 9, { count: 2, nearest: nearest(8, 5) }, '20')
    stream.says('lease/n/t/', ...leaving(8, 21))
    await stream.answersCreates(2, 22) // the watch of the one who has come back, and that of the lease
    expect(heard.splice(0), 'it looks, for it may have missed something').to.deep.equal([toTheSecond])
    stream.says('lease/n/l/', vacancy(30))
    stream.says(ticketKey(5, 'c5'), removed(5, 32))
    expect(heard).to.deep.equal([toTheSecond, { ...taken, place: 5 }])
    await hints.close()
  })
})

for (const target of etcdTargets(1)) {
  describe(`watches, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    /** Counts the streams that this driver opens. */
    const counting = (etcd: EtcdDriver): { streams: number } => {
      const counted = { streams: 0 }
      const watch = etcd.watchClient.watch.bind(etcd.watchClient)
      etcd.watchClient.watch = (options) => {
        counted.streams++
        return watch(options)
      }
      return counted
    }

    together({
      'sixty namespaces over one Etcd3 take one stream, and each hears what is its own': async () => {
        const etcd = setting.newEtcd({ grpcOptions: {} })
        const counted = counting(etcd)
        const all = Array.from({ length: 60 }, (_, index) => {
          const substrate = setting.substrate({ etcd, namespace: unique('ns') })
          const heard: LeaseChange[] = []
          substrate.watch?.((change) => heard.push(change), index % 2 === 0 ? undefined : `client-${index}`)
          return { substrate, heard, index }
        })
        await eventually(() => all.every(({ heard }) => heard.length >= 1))
        for (const { substrate, index } of all) {
          if (index % 2 === 1) await substrate.read(['l'], newCall({ client: `client-${index}` }), ['l'])
          await grant(substrate, claim('l', 'a', 60_000, { nonce: 'n' }))
          await settle(substrate, release('l', 'a', { nonce: 'n' }))
        }
        await eventually(() => all.every(({ heard }) => heard.length >= 2))
        for (const { heard } of all) expect(heard).to.deep.equal([{ kind: 'resync' }, { kind: 'vacated', lease: 'l' }])
        expect(counted.streams).to.equal(1)
      },

      'a stream that is cut in the middle begins again with all that was watched': async () => {
        const url = target.endpoints[0] ?? ''
        await using proxy = await startProxy(url)
        const namespace = unique('ns')
        const etcd = setting.newEtcd({ hosts: proxy.url(url) })
        const substrate = setting.substrate({ namespace, etcd })
        const heard: LeaseChange[] = []
        substrate.watch?.((change) => heard.push(change), 'client-of-it')
        await substrate.read(['l', 'm'], newCall({ client: 'client-of-it' }), ['l', 'm'])
        const resyncs = (): number => heard.filter(({ kind }) => kind === 'resync').length
        await eventually(() => resyncs() >= 1)
        proxy.cut()
        await eventually(() => resyncs() >= 2)
        const other = setting.substrate({ namespace })
        for (const lease of ['l', 'm']) {
          await grant(other, claim(lease, 'a', 60_000))
          await settle(other, release(lease, 'a'))
        }
        await eventually(() => heard.filter(({ kind }) => kind === 'vacated').length >= 2)
      },

      'a watch that is opened and closed at once, again and again, harms no other': async () => {
        const etcd = setting.newEtcd({ grpcOptions: {} })
        const watches = Watches.of(etcd, systemClock)
        const letGo = watches.keep(async () => {})
        const key = unique('k')
        const kept = listening()
        watches.open({ key: Buffer.from(key), filters: [NO_DELETES] }, kept.listener)
        await eventually(() => kept.told.length >= 1)
        const closed = listening()
        for (let round = 0; round < 200; round++) {
          const close = watches.open(range(key), closed.listener)
          if (round % 3 === 0) await sleep(1)
          close()
        }
        const before = closed.told.length
        await setting.etcd.put(key).value('x')
        await eventually(() => kept.told.length >= 2)
        expect(closed.told).to.have.lengthOf(before)
        await letGo()
      },

      'what was compacted since the read makes those look again who watch': async () => {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        const { header } = await setting.etcd.put(unique('k')).value('x')
        for (let more = 0; more < 3; more++) await setting.etcd.put(unique('k')).value('x')
        const etcd = setting.newEtcd({ grpcOptions: {} })
        const heard: string[] = []
        const watches = Watches.of(etcd, systemClock)
        const letGo = watches.keep(async () => {})
        const now = await setting.etcd.put(unique('k')).value('x')
        await setting.etcd.kv.compact({ revision: now.header.revision })
        watches.open(
          range(`lease/${namespace}/l/l`),
          {
            begun: (_revision, isLate) => heard.push(isLate ? 'late' : 'begun'),
            event: () => heard.push('event'),
            denied: () => {},
          },
          { since: header.revision },
        )
        await eventually(() => heard.includes('late'))
        await grant(substrate, claim('l', 'a', 60_000))
        await eventually(() => heard.includes('event'))
        await letGo()
      },
    })
  })
}
