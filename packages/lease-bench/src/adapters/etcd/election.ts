import { ownSeat, type Adapter, type Contestant } from '../../bench.ts'
import { peerContestant, versionOf, type PeerLock } from '../peer.ts'
import { openEtcd } from './connection.ts'

/** Candidates queue; each waits for the one before it. */
export const etcd3Election: Adapter = {
  name: 'etcd3-election',
  role: 'peer',
  about: `${versionOf('etcd3')}, its Election: an etcd lease for each who stands`,
  can: ['one', 'queue'],
  open: ({ url }, { space } = ownSeat()) => open(url, `${space}/`),
}

async function open(url: string, prefix: string): Promise<Contestant> {
  const etcd = openEtcd(url)
  const elected = async (lease: string): Promise<PeerLock> => {
    const campaign = etcd.election(prefix + lease).campaign('bench')
    await campaign.wait()
    campaign.on('error', () => {}) // the client is closed under it
    return { release: () => campaign.resign() }
  }
  return peerContestant({
    acquire: elected,
    wait: elected,
    close: async () => etcd.close(),
  })
}
