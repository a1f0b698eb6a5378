import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { programOf, until } from 'lease-servers'

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe('the workers of a race', () => {
  it('end when the race is killed', async () => {
    const race = spawn(process.execPath, programOf('./idle.race.ts', import.meta.url), {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = (await once(race.stdout, 'data')) as [Buffer]
    race.kill('SIGKILL')
    await until('the end of the worker', () => !runs(Number(line.toString())))
  })
})
