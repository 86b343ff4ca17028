"""Protocol ``retrieval``: is a place found again by another band? Needs no labels.

The feature of place p in band a is looked up among the features of N places in band b; recall@k is the share of places
whose own is among the k most similar. So an encoder is judged by whether it serves any band of any sensor, for which
there need not be labelled images.

Features are compared by their cosine, after each band's are standardised by their own mean and deviation over the N
places. What all images of a band have in common says nothing about the place, and it would favour models that were
trained to remove it.
"""
