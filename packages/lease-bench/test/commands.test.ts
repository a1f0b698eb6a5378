import { expect } from 'chai'
import type { Ground } from '#src/bench.ts'
import { substrateNamed } from '#src/substrates/index.ts'
import { testServers } from './servers.ts'

// In memory only what the library sends is counted: see what the workloads measure.
for (const [name, url] of [...testServers()].filter(([name]) => name !== 'memory')) {
  describe(`bench: commands counted on ${name}`, () => {
    let ground: Ground

    before(async () => {
      ground = await (await substrateNamed(name)).reach(url())
    })

    after(() => ground.close())

    it('bytes are counted of each answer', async () => {
      await ground.roundTrip()
      const before = ground.bytes()
      for (let times = 0; times < 10; times++) await ground.roundTrip()
      expect(ground.bytes() - before).to.be.at.least(10 * '+PONG'.length)
    })

    it('are as many as a client has sent, reported at once', async () => {
      await ground.roundTrip() // connections
      const before = await ground.commands()
      for (let times = 0; times < 10; times++) await ground.roundTrip()
      // The server's own count, on etcd, also counts other tests; the others count this process.
      const counted = (await ground.commands()) - before
      if (name === 'etcd') expect(counted).to.be.at.least(10)
      else expect(counted).to.equal(10)
    })
  })
}
