import { expect } from 'chai'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { programOf, redisTargets, until } from 'lease-servers'

/** A Nest application in a process of its own. */
class Application {
  readonly process: ChildProcess
  readonly told: string[] = []

  constructor(url: string, namespace: string) {
    const program = programOf('./application.ts', import.meta.url)
    const options = { execArgv: program.slice(0, -1) }
    this.process = fork(program.at(-1) as string, [url, namespace], options)
    this.process.on('message', (message: string) => this.told.push(message))
  }

  async call(method: 'work' | 'short'): Promise<string> {
    const { length } = this.told
    this.process.send(method)
    await until(`an answer to ${method}`, () => this.told.length > length)
    return this.told.at(-1) as string
  }
}

for (const target of redisTargets('server')) {
  describe(`two processes of a Nest application, on ${target.name}`, () => {
    let applications: readonly Application[]
    before(async () => {
      const namespace = `nest-${process.pid}`
      applications = [new Application(target.url, namespace), new Application(target.url, namespace)]
      await until('both', () => applications.every(({ told }) => told.includes('ready')))
    })
    after(() => {
      for (const application of applications) application.process.kill('SIGKILL')
    })

    it('a method runs in one of them at a time; SIGTERM ends the work, releases the lease and ends the process', async () => {
      const [here, there] = applications as [Application, Application]
      expect(await here.call('work')).to.match(/^works with \d+$/)
      expect(await there.call('short')).to.equal('skipped')
      const ended = once(here.process, 'exit')
      here.process.kill('SIGTERM')
      await ended
      await until('its last word', () => here.told.at(-1) === 'was aborted') // may arrive after the news of its end
      expect(await there.call('short'), 'long before the lease could lapse').to.match(/^ran with \d+$/)
    })
  })
}
