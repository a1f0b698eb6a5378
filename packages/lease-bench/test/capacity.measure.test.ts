import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { isMatrix, programOf } from 'lease-servers'
import { measuredServers } from '#src/capacity/measured-server.ts'
import { measureStore } from '#src/capacity/measure.ts'
import { redis } from '#src/substrates/redis.ts'

describe('bench: the command capacity', function () {
  it('prints what a fleet asks of its server', async () => {
    const flags = ['load', '--processes', '10000', '--leases', '20', '--duration-ms', '30000']
    const program = programOf('../src/capacity/main.ts', import.meta.url)
    const { stdout } = await promisify(execFile)(process.execPath, [...program, ...flags])
    expect(stdout).to.contain('every 9.216 s').and.to.contain('21,701.4')
  })

  it('measures what a server takes for each operation, on redis', async function () {
    if (!isMatrix()) this.skip() // it measures for many seconds
    const server = await measuredServers.redis()
    const ground = await redis.reach(server.url)
    try {
      const adapter = redis.adapters.find(({ role }) => role === 'library')
      if (adapter === undefined) throw new Error('the library is missing')
      const extent = { seconds: 0.1, rounds: 1, leases: 500, clients: 4, durationMs: 1_000, settlingMs: 100 }
      const figures = await measureStore(server, adapter, ground, { ...extent, idleSeconds: 0 })
      const leastOf = (name: string): number => figures.find((one) => one.name === name)?.least ?? Number.NaN
      expect(figures.map(({ least }) => Number.isFinite(least))).to.not.include(false)
      expect(leastOf('connections of a process')).to.equal(2)
      for (const name of ['claim', 'extension', 'release']) expect(leastOf(`${name} alone`)).to.be.above(0)
      expect(leastOf('extension in a batch: operations')).to.be.above(1)
      expect(leastOf('stored for a lease')).to.be.above(36) // bytes of its name
      expect(leastOf('hand-off: messages')).to.be.at.least(3)
    } finally {
      await ground.close()
      await server.stop()
    }
  })
})
