import { expect } from 'chai'
import { isMatrix, until } from 'lease-servers'
import { ownSeat, type Ground, type Sample, type Setting, type Workload } from '#src/bench.ts'
import { launchClients, type ClientProcess } from '#src/client-process.ts'
import { ClientTeam } from '#src/client-team.ts'
import { postgres } from '#src/substrates/postgres.ts'
import { redis } from '#src/substrates/redis.ts'
import { w4HandOff } from '#src/workloads/w4-hand-off.ts'
import { w9Fleet } from '#src/workloads/w9-fleet.ts'
import { testServers } from './servers.ts'

const servers = testServers()

describe('bench: clients in several processes, on redis', function () {
  if (!isMatrix()) return // each process costs a second

  let ground: Ground

  before(async () => {
    ground = await redis.reach(servers.get('redis')?.() ?? '')
  })

  after(() => ground.close())

  it('a grant in one process comes after the release in another, by the same clock', async () => {
    const { space } = ownSeat()
    const processes = await Promise.all([launched('ring'), launched('ring')])
    try {
      const [giver, taker] = processes
      await giver.open([{ space, index: 0, count: 2 }], 1)
      await taker.open([{ space, index: 1, count: 2 }], 1)
      await giver.hold(0, 'handed-on')
      const grant = taker.hold(0, 'handed-on')
      await until('the other waits', async () => (await taker.report()).waiting === 1)
      const releasedMs = await giver.release(0)
      expect(await grant).to.be.above(releasedMs)
      expect(await taker.report()).to.include({ messages: 1, waiting: 0 })
    } finally {
      await Promise.all(processes.map((one) => one.end()))
    }
  })

  it('clients that follow each other are in different processes, and what they do is counted together', async () => {
    const team = await ClientTeam.start(adapterNamed('ours'), ground, 3)
    try {
      await team.open(6)
      const places = team.members.map(({ clients }) => clients)
      expect(new Set(places).size).to.equal(3)
      for (const [index, place] of places.entries()) expect(place).not.to.equal(places[(index + 1) % places.length])
      const before = await team.report()
      await team.keep('standing', 60_000)
      const after = await team.report()
      expect(after.commands - before.commands).to.be.at.least(1)
      expect(after.bytes).to.be.above(before.bytes)
    } finally {
      await team.end()
    }
  })

  it('what fails there is notified, and so is the end of a process', async () => {
    const nobody = await launched('nobody').catch((error: unknown) => error)
    expect(String(nobody)).to.contain('there is no adapter "nobody" on redis')
    const clients = await launched('ring')
    const early = await clients.release(3).catch((error: unknown) => error)
    expect(String(early)).to.contain('there is no client 3')
    await clients.open([ownSeat()], 1)
    await clients.hold(0, 'lease')
    const waiting = clients.hold(0, 'lease').catch((error: unknown) => error)
    await clients.end()
    expect(String(await waiting)).to.contain('process ended')
    expect(String(await clients.report().catch((error: unknown) => error))).to.contain('process ended')
  })

  it('a hand-off by hand takes two commands and one message', async () => {
    const sample = await sampleOf(w4HandOff, 'ring', { waiters: [3] })
    expect(sample['commands/hand-off']).to.equal(2)
    expect(sample['messages/hand-off']).to.equal(1)
    expect(sample['bytes/hand-off']).to.be.above(0)
    expect(sample['p50 ms']).to.be.above(0)
  })

  it('a hand-off by the library takes as many commands and messages however many wait', async () => {
    // A stall of this machine makes somebody look again: one measurement must show it, not each.
    await until('no more than that', async () => {
      const sample = await sampleOf(w4HandOff, 'ours', { waiters: [20] })
      const { 'commands/hand-off': commands = Number.NaN, 'messages/hand-off': messages = Number.NaN } = sample
      return commands <= 5 && messages <= 4
    })
  })

  it('a process at work sends no message to others that hold a lease each', async () => {
    await until('not one', async () => {
      const sample = await sampleOf(w9Fleet, 'ours', { others: [3] })
      expect(sample['beside ÷ alone']).to.be.above(0)
      return sample['messages/pair to them'] === 0
    })
  })

  it('all clients work in the same namespace, each on leases of its own', async () => {
    const sample = await sampleOf(w9Fleet, 'ours', { others: [] })
    expect(sample['32 ÷ 4']).to.be.above(0)
    expect(sample['messages/pair']).to.be.at.least(0)
  })

  function launched(adapter: string): Promise<ClientProcess> {
    return launchClients({ substrate: 'redis', url: ground.url, adapter })
  }

  function adapterNamed(label: string): (typeof redis.adapters)[number] {
    const adapter = redis.adapters.find(({ name }) => name === label)
    if (adapter === undefined) throw new Error(`no adapter ${label}`)
    return adapter
  }

  async function sampleOf<Task>(workload: Workload<Task>, label: string, setting: Partial<Setting>): Promise<Sample> {
    const adapter = adapterNamed(label)
    const defaults = { callers: [1], sizes: undefined, durationMs: 300, waiters: [1], others: [1] }
    const [table] = workload.tables({ ...defaults, ...setting, adapters: [adapter] })
    const arm = table?.arms[0]
    if (arm === undefined) throw new Error(`no arm ${label}`)
    const trial = await workload.start(adapter, ground, arm.task)
    try {
      return await trial.measure(0.2)
    } finally {
      await trial.close()
    }
  }
})

describe('bench: clients that wait', () => {
  it('are not measured where the server has too few connections for them, and the table says so', () => {
    const setting = { callers: [1], sizes: undefined, durationMs: 300, others: [1], adapters: postgres.adapters }
    const [few, many] = w4HandOff.tables({ ...setting, waiters: [16, 1_000] })
    expect(few?.unable).to.deep.equal([])
    expect(few?.arms.map(({ label }) => label)).to.include('advisory')
    expect(many?.unable?.map(({ label }) => label)).to.include.members(['advisory', 'advisory-lock'])
    expect(many?.arms.map(({ label }) => label))
      .to.include('ours')
      .and.not.include('advisory')
  })
})
