import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { programOf } from 'lease-servers'

const root = fileURLToPath(new URL('../../..', import.meta.url))

export interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs the command `bench` to its end. The only place that says how the tests start a program. */
export function runBench(...flags: readonly string[]): Promise<Ended> {
  const node = ['--expose-gc', ...programOf('../src/main.ts', import.meta.url)]
  return new Promise((resolve) => {
    execFile(process.execPath, [...node, ...flags], { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}
