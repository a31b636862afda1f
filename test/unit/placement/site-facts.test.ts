/** What a gateway says of its site for placement among sites, and what another makes of it. */
import t from 'tap'
import { foldSite, siteCapacityOfAd } from '../../../agent/advertise.ts'
import type { Resources } from '../../../protocol/core/capacity.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import type { HostAd } from '../../../protocol/wire/gen/types.ts'

const r = (vcpus: number, bandwidthMbit: number): Resources => ({ vcpus, memoryMib: 1024 * vcpus, diskMib: 0, volumes: 0, bandwidthMbit })
const ad = (host: string, free: Resources, total: Resources, cordoned = false): HostAd => ({
  site: 'tokyo', host, roles: ['gateway', 'compute'], addresses: [], underlayAddress: '', total, free, cordoned, accelerator: 'kvm', version: '1', inventory: null, features: []
})

t.test('bandwidth is that of the gateway that speaks, not the sum of the site\'s; price and free hosts go along', t => {
  const ads = [ad('gw1', r(2, 300), r(4, 1000)), ad('gw2', r(3, 500), r(4, 500))]
  const said = foldSite('tokyo', { host: 'gw1', addresses: [] }, ads, '1', { priceMilli: 1500, maxTermMs: 0, relay: false, tunnel: [] })
  t.match(said, { total: { vcpus: 8, bandwidthMbit: 1000 }, free: { vcpus: 5, bandwidthMbit: 300 } })
  t.match(siteCapacityOfAd(decode('SiteAd', encode('SiteAd', said))), { site: 'tokyo', priceMilli: 1500, wanFreeMbit: 300, freeByHost: [{ vcpus: 2 }, { vcpus: 3 }] })
  t.match(foldSite('tokyo', { host: 'gw2', addresses: [] }, ads, '1').free, { bandwidthMbit: 500 })
  t.match(foldSite('tokyo', { host: 'gw1', addresses: [] }, [ad('gw1', r(2, 300), r(4, 1000), true)], '1').free, { bandwidthMbit: 0 }, 'a cordoned gateway promises none')
  t.equal('rttMs' in siteCapacityOfAd(said), false, 'how far it is nobody can say of itself')
  t.end()
})
