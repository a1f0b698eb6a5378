/** Waits for changes of sources and tests, for `test:file --watch`. */
import { existsSync, readdirSync, watch } from 'node:fs'
import { join } from 'node:path'
import { root } from './test-files.ts'

/** An editor writes a file in several steps, and a change of branch many files. */
const SETTLE_MS = 100

/** Resolves a moment after a TypeScript file of the workspace has changed. @throws the reason of the signal */
export async function changed(signal: AbortSignal): Promise<void> {
  const folders = [
    ...readdirSync(join(root, 'packages')).flatMap((name) => [`packages/${name}/src`, `packages/${name}/test`]),
  ].filter((folder) => existsSync(join(root, folder)))
  await new Promise<void>((resolve, reject) => {
    let settled: NodeJS.Timeout | undefined
    const heard = (_event: string, name: string | null): void => {
      if (name?.endsWith('.ts') !== true) return
      clearTimeout(settled)
      settled = setTimeout(() => end(resolve), SETTLE_MS)
    }
    const watchers = folders.map((folder) => watch(join(root, folder), { recursive: true }, heard))
    // It has packages in it.
    watchers.push(watch(join(root, 'docs/examples'), heard))
    const end = (settle: () => void): void => {
      clearTimeout(settled)
      signal.removeEventListener('abort', abandon)
      for (const watcher of watchers) watcher.close()
      settle()
    }
    const abandon = (): void => end(() => reject(signal.reason as Error))
    signal.addEventListener('abort', abandon)
    if (signal.aborted) abandon()
  })
}
