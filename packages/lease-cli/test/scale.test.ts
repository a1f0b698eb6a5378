import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { expect } from 'chai'
import { isMatrix, programOf } from 'lease-servers'
import { besides, testServers, unique } from './stores.ts'

const LEASES = 100_000
const AT_ONCE = 2_000
/** 300 MB, of the process as a whole. */
const MOST_KB = 300 * 1024

/** Only in the matrix: it takes minutes. How long a command takes is printed with `LEASE_TEST_FIGURES`, and no bound of a test. */
if (isMatrix()) {
  // Not on DynamoDB: to fill the local server with so many leases takes longer than all the rest.
  for (const server of testServers().filter(({ name }) => name !== 'dynamodb')) {
    describe(`lease with ${LEASES} leases on ${server.name}`, () => {
      let env: NodeJS.ProcessEnv

      before(async function () {
        this.timeout(0)
        if (!existsSync('/proc/self/status')) this.skip()
        const [url, namespace] = [await server.open(), unique()]
        env = { ...process.env, LEASE_URL: url, LEASE_NAMESPACE: namespace, LEASE_READ_ONLY: '' }
        const store = await besides(url, namespace)
        for (let from = 0; from < LEASES; from += AT_ONCE) {
          const claims = Array.from({ length: AT_ONCE }, (_, index) => {
            const request = { holder: `worker-${index % 50}`, duration: { hours: 10 }, value: 'http://10.0.0.1:8080' }
            return store.client.claimLease(`account-${from + index}`, request)
          })
          await Promise.all(claims)
        }
        await store.close()
      })
      after(() => server.close())

      for (const [args, lines] of [
        [['list'], LEASES + 1],
        [['list', '--json'], LEASES + 2],
        [['show', 'account-5', '--json'], 1],
        [['watch', 'account-5', '--until', 'held'], 1],
      ] as const) {
        it(`${args.join(' ')} takes less than 300 MB`, () => {
          // Prints what the process has taken at most, after everything else.
          const report = `process.on('exit', () => process._rawDebug('peak', process.resourceUsage().maxRSS, performance.now()))`
          const program = [
            '--import',
            `data:text/javascript,${encodeURIComponent(report)}`,
            ...programOf('../src/main.ts', import.meta.url),
          ]
          const { stdout, stderr, status } = spawnSync(process.execPath, [...program, ...args], {
            env,
            encoding: 'utf8',
            maxBuffer: 1e9,
          })
          expect(status, stderr).to.equal(0)
          expect(stdout.trimEnd().split('\n')).to.have.length(lines)
          const [, peakKb = '', ms = ''] = /peak (\d+) ([\d.]+)/.exec(stderr) ?? []
          if (process.env['LEASE_TEST_FIGURES'] !== undefined)
            console.log(`      ${Math.round(Number(peakKb) / 1024)} MB, ${Math.round(Number(ms))} ms`)
          expect(Number(peakKb)).to.be.within(1, MOST_KB)
        })
      }
    })
  }
}
