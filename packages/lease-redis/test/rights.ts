/** The lists of rights of docs/substrates/redis.md, as they are written there. */
import { readFile } from 'node:fs/promises'

/** The words after `ACL SETUSER <user>` of each list, in the order of the page. */
export async function documentedRights(namespace: string): Promise<Record<RightsList, readonly string[]>> {
  const page = await readFile(new URL('../../../docs/substrates/redis.md', import.meta.url), 'utf8')
  const lists = [...page.matchAll(/^ACL SETUSER \w+ ([^`]+)/gm)].map(([, words = '']) =>
    words
      .split(/\s+/)
      .filter((word) => word !== '')
      .map((word) => word.replace('{billing}', `{${namespace}}`)),
  )
  if (lists.length !== 4) throw new Error(`the page has ${lists.length} lists of rights`)
  const [leases = [], transactions = [], cluster = [], sentinels = []] = lists
  return { leases, transactions, cluster, sentinels }
}

export type RightsList = 'leases' | 'transactions' | 'cluster' | 'sentinels'
